"""The CPU as the simulator has it: two multiprocessors, since every thread costs. Its times mean nothing."""

from imp_codegen.cards import Card, Formulas

CARD = Card(
    name="sim",
    title="simulator",
    target="sim",
    sms=2,
    shared=100 << 10,
    formulas=Formulas(
        gemv_warps=4,
        stream_slots=3,
        in_flight=8 << 10,
        early_ctas=32,
        early_cols=4096,
        whole_cols=8192,
        lanes=4,
        short_tile=4200,
    ),
    speed=None,
)
