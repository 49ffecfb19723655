// Threads of WebAssembly: the host's workers call `team_help`. There is no clock, so iterations are counted.

static int64_t microseconds(int spins) { return spins / 512; }

static void sleep_until_woken(Team *team, int thread) {
  atomic_int *isAsleep = &team->states[thread].isAsleep;
  while (atomic_load(isAsleep)) __builtin_wasm_memory_atomic_wait32((int *)isAsleep, 1, -1);
}

static void notify(Team *team, int thread) { __builtin_wasm_memory_atomic_notify((int *)&team->states[thread].isAsleep, 1); }

static int start_threads(Team *team) { return team->numThreads - 1; }

static void join_threads(Team *team) { (void)team; }
