// Threads of WebAssembly: the host's workers call `team_help`. There is no clock, so iterations are counted.

static int64_t microseconds(int spins) { return spins / 512; }

static void sleep_while(Team *team, int seen) {
  while (atomic_load(&team->signal) == seen) __builtin_wasm_memory_atomic_wait32((int *)&team->signal, seen, -1);
}

static void wake_all(Team *team) { __builtin_wasm_memory_atomic_notify((int *)&team->signal, TEAM_MOST_THREADS); }

static int start_threads(Team *team) { return team->numThreads - 1; }

static void join_threads(Team *team) { (void)team; }
