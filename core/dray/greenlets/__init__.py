"""The pool of greenlets: one child of the worker, patched by gevent, that runs many tasks beside each other.

pool.py       the executor: what the worker asks of it                                  any thread of the worker
herd.py       feeds the child, hears it, has another one made when it dies or must go   one thread of the worker
nursery.py    makes it: a new interpreter, patched before anything else is imported     the same
child.py      runs jobs, each in a greenlet                                             the main thread of the child
orders.py     hears the worker, even while a task keeps the main thread to itself       another thread of the child

The worker itself stays unpatched: whatever tasks do to the child, loans are renewed and results written by threads that
run no task. Nothing may be imported here that the child imports before it is patched: see nursery.py.
"""
