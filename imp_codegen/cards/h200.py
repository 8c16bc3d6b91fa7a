"""NVIDIA H200. Measured, but for what is marked; rows and dates are those of docs/benchmarks.md.

A tile of a product is 64 tokens x 64 rows x 128 bytes of a row of codes; what a tile takes follows from the pp512 rows
of 2026-11-21, with 2.4 us a launch: 0.6B and 1.7B Q8_0 (41,935 and 23,583 tok/s), 1B BF16 (24,781), 8B Q4_K_M mix
(6,842), and of 2026-11-26 8B Q6_K (5,924).
"""

from imp_codegen.cards import Card, Formulas, Speed

CARD = Card(
    name="h200",
    title="NVIDIA H200",
    target="sm_90a",
    sms=132,
    shared=228 << 10,
    formulas=Formulas(
        # 8B of 5 layers, graph, 12 warps with three tiles each and 16 with two (2026-11-27): NVFP4 4,045 and 4,225
        # tok/s, IQ4_XS 3,888 and 4,128, Q2_K 4,552 and 4,990, Q6_K 3,426 and 3,453; whole, Q8_0 421 and 421.
        gemv_warps=16,
        stream_slots=2,
        in_flight=64 << 10,  # 8B Q8_0 464 to 486 tok/s, from 48 KB, with the vector in registers
        early_ctas=32,  # 3 % at 0.6B
        early_cols=4096,  # polling a longer vector in vain costs more
        whole_cols=16384,  # 3 % at 18,944, none at 12,288
        lanes=8,
        short_tile=0,
        step_tile_us=0.12,  # 0.108 to 0.127 of eleven models and formats, whose tiles have 1.4 to 3.4 KB
        step_row_us=0.066,  # tiles of two rows took 0.166 to 0.222 (8B of 5 layers, seven formats, 2026-11-27)
    ),
    speed=Speed(
        bandwidth=4400,  # plain reads of 4,180 to 4,550 GB/s on the cards seen
        clock=1.98,  # data sheet
        rates={"int8": 1281, "f16": 636, "half": 636, "fp8": 1801},  # registers only
        launch_us=2.4,
        phase_us=1.3,
        tiles={
            **{"Q8_0": 0.84, "Q4_K": 1.1, "Q6_K": 1.33, "BF16": 0.74},
            **{"F16": 1.5, "F32": 2.2},  # not measured: BF16's, for each plane
            # Products by warps, an H100's (2026-11-27): 512 rows of an 8B in Q8_0 and, with float sums, in BF16; for
            # 128 columns of a tile of rows x tokens. 256 x 64 from a product alone, with float sums not measured.
            **{"half 128x128": 1.89, "half 256x64": 1.76, "half 128x64": 1.17},
            **{"half 128x128 float": 2.03, "half 256x64 float": 2.03, "half 128x64 float": 1.29},
            **{"half 256": 1.57, "half 128": 1.16},  # an H100's, gate and up of an 8B model
            # 128, 64 and 192 rows by 128 columns, all matrices of an 8B in Q8_0 (2026-11-27)
            **{"half 64": 0.9, "half 64 of 64": 0.6, "half 64 of 192": 1.1},
            # 256 rows by 128 columns, an H100's, gate and up of an 8B in Q8_0 and Q4_K, which differ by 20 % and less
            **{"half pairs 64": 0.58, "half pairs 32": 0.5},
            **{"half batch 8": 1.75, "half batch 16": 1.8, "half batch 32": 2.1, "half batch 64": 2.9},
            # 16 rows, and 192 or 128 by warpgroups, by 128 columns; gate and up of an 8B in Q8_0 and Q4_K on an H200
            **{"half held 8": 0.06, "half held 16": 0.08, "half batch 32 wgmma": 1.3, "half batch 64 wgmma": 1.4},
            # 64 queries and 64 keys, one launch alone on an H100 (2026-11-27): at 64k positions 1.9 us by warps and
            # 1.2 by warpgroups, at 16k 2.3 and 1.4. Others, not measured, by what the tensor cores do.
            **{"attention 64": 0.95, "attention 96": 1.4, "attention 128": 1.9},
            **{"attention 256": 1.9, "attention 512": 0.95},
            **{"attention 64 wgmma": 0.6, "attention 128 wgmma": 1.15, "attention 256 wgmma": 2.3},
        },
    ),
)
