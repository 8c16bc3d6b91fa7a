// The instruction layer on the GPU: one function, one instruction (or a tiny fixed sequence).
// imp/sim holds the same functions for a CPU; the include path chooses.
#pragma once

#include "isa_fp4.h"
#include "isa_math.h"
#include "isa_memory.h"
#include "isa_mma.h"
#include "isa_warp.h"
#include "isa_wgmma.h"
#include "isa_wgmma_lines.h"
