// The instruction layer on a CPU: the twins of imp/ptx, function for function. Every simulated thread is a fiber of
// engine.cpp; a warp instruction is one function over the arguments of its 32 lanes.
#pragma once

#include "isa_fp4.h"
#include "isa_math.h"
#include "isa_memory.h"
#include "isa_mma.h"
#include "isa_warp.h"
#include "isa_wgmma.h"
#include "isa_wgmma_lines.h"
