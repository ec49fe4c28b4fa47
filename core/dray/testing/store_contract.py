"""The store port as a test suite: what an adapter must do, in sentences. Subclass it in three lines.

    class TestMyStore(StoreContract):
        def make_store(self, tmp_path):
            return MyStore(Url.parse(f"mine://{tmp_path}/records"))

Each section is a class of tests in `dray.testing.store_sections`: changing, checking, counting, looking, forgetting,
limits, connections, replies, clocks, processes; read them in this order. What a subclass may say about its store
(`second`, `elsewhere`, `pass_time`, `cut`, `ttl`) is in `store_sections.kit.StoreKit`. A test is skipped only when the
store's `StoreCapabilities` do not claim what it is about.
"""

from __future__ import annotations

from .store_sections.changing import Changing
from .store_sections.checking import Checking
from .store_sections.clocks import Clocks
from .store_sections.connections import StoreConnections
from .store_sections.counting import Counting, Members
from .store_sections.forgetting import Forgetting
from .store_sections.limits import Holding, Limits
from .store_sections.looking import Indexes, Scanning
from .store_sections.processes import Processes
from .store_sections.replies import LostReplies


# pytest runs inherited tests from the last base to the first, so this line is read from right to left.
class StoreContract(
    Processes,
    Clocks,
    LostReplies,
    StoreConnections,
    Holding,
    Limits,
    Forgetting,
    Indexes,
    Scanning,
    Members,
    Counting,
    Checking,
    Changing,
):
    """All sections. A store that passes can be used by every part of dray."""
