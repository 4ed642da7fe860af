"""The server that the tests of the runtime "remote" ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faulty_server import Faulty, faulty_server


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with faulty_server() as server:
        yield server
