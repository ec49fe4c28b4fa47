"""The broker port as a test suite: what an adapter must do, in sentences. Subclass it in three lines.

    class TestFolderBroker(BrokerContract):
        def make_broker(self, tmp_path):
            return FolderBroker(Url.parse(f"folder://{tmp_path}/q"))

Each section is a class of tests in `dray.testing.broker_sections`: publishing, bodies, order, settling, leases, delays,
dead_letters, cancelling, looking, sharing, connections, routing, transactions; read them in this order. What a subclass
may say about its storage (`second`, `pass_time`, `cut`, `lease`, ...) is in `broker_sections.kit.BrokerKit`, and how
its callers connect (`caller_connection`) in the section about transactions. A test is skipped only when the broker's
`Capabilities` do not claim what it is about, and the grade card printed at the end of the run names each capability
that was missing.
"""

from __future__ import annotations

from .broker_sections.bodies import Bodies
from .broker_sections.cancelling import Cancelling
from .broker_sections.connections import Connections
from .broker_sections.dead_letters import DeadLetters
from .broker_sections.delays import Delays
from .broker_sections.leases import Leases
from .broker_sections.looking import Looking
from .broker_sections.order import Order
from .broker_sections.publishing import Publishing
from .broker_sections.routing import Routing
from .broker_sections.settling import Settling
from .broker_sections.sharing import Sharing
from .broker_sections.transactions import Transactions


# pytest runs inherited tests from the last base to the first, so this line is read from right to left.
class BrokerContract(
    Transactions,
    Routing,
    Connections,
    Sharing,
    Looking,
    Cancelling,
    DeadLetters,
    Delays,
    Leases,
    Settling,
    Order,
    Bodies,
    Publishing,
):
    """All sections. A broker that passes, skips included, can be used by every part of dray."""
