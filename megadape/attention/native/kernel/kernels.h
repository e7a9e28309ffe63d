// All of the kernels, for the instruction set whose vector_*.h has been included before.
#pragma once

#include "interface.h"
// the order matters: each header uses those above it
#include "memory.h"
#include "matmul.h"
#include "blocks.h"
#include "number.h"
#include "mixer.h"
#include "pieces.h"
#include "bias.h"
#include "queries.h"
#include "forward.h"
#include "outer_product.h"
#include "turns.h"
#include "backward.h"
