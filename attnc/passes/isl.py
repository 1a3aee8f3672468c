"""islpy under one name. Its stubs do not know half of isl, so everything that comes from it is Any."""

from __future__ import annotations

from typing import Any

import islpy

isl: Any = islpy
