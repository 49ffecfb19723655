// Finds the loops that this processor can run.

#pragma once
#include "loops.h"

/** Fills `available`, the fastest first and the plain loops last. @returns their number */
int available_loops(const Loops *available[4]);
