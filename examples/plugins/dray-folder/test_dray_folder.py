"""The folder broker against the contract that every broker of dray is held to."""

from __future__ import annotations

from dray_folder import FolderBroker

from dray import Url
from dray.testing import BrokerContract


class TestFolderBroker(BrokerContract):
    def make_broker(self, tmp_path):
        return FolderBroker(Url.parse(f"folder://{tmp_path}/q"))
