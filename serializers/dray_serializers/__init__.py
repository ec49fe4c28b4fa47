"""The serializers and payload compressions that come with dray: json, msgpack, pickle, yaml; gzip, zstd.

Each is one module, imported when a setting or a message asks for its name. They are contributed through the same hooks
as anybody's (`plugin.py`) and import the public names of `dray` only.
"""

from __future__ import annotations
