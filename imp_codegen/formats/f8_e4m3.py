"""F8_E4M3: codes of a byte (`E4M3`). A weight has scales, too: see `fp8_blocks.py` and `fp8_rows.py`."""

from __future__ import annotations

from imp_codegen.formats import E4M3, Format, Part

FORMAT = Format("F8_E4M3", 1, (Part(1, 1),), lambda raw: E4M3[raw])
