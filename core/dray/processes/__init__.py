"""The pool of processes: each task runs in a child of the worker, which can be ended without harm to any other.

pool.py         the executor: what the worker asks of it                               any thread of the worker
watch.py        hears children, sees them die, has others made                         one thread of the worker
supervisor.py   what is particular to children that run one job at a time              the same
nursery.py      makes them; feeder.py: hands them jobs                                 the same
handle.py       one child as the worker sees it                                        the same
child.py        runs jobs, one after the other                                         the main thread of a child
desk.py         unpacks jobs, and puts in words what they came to                      the same
orders.py       hears the worker: cancel, interrupt, end, give back; sees it die       another thread of a child
birth.py        what a child is told when it is born, and how it finds the app         both
frames.py       what they say to each other                                            both

The worker keeps the loans, the receipts and the results; a child has a few jobs at hand and a pipe. Before it begins a
job it says so, in the same breath as what the one before came to: whenever a child dies, its worker knows which job
was running, and that no other one was.

The pool of greenlets (dray/greenlets) has children that run many jobs at a time, and shares most of this.
"""
