#include "team.h"

#if defined(__wasm__)
#include "team_wasm.h"
#elif defined(_WIN32)
#include "team_windows.h"
#else
#include "team_posix.h"
#endif

// Threads wait this long before they sleep: a phase lasts 2 to 50 microseconds, the pause for sampling 100 and more.
enum { SPIN_MICROSECONDS = 50, SPINS_A_LOOK = 64 };

/** One wait: its duration, and the last signal that was seen before its condition was checked. */
typedef struct {
  int seen, spins;
  int64_t end;
} Wait;

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void keep_waiting(Team *team, Wait *wait) {
  pause_briefly();
  if (++wait->spins % SPINS_A_LOOK != 0) return;
  int64_t now = microseconds(wait->spins);
  if (wait->end == 0) wait->end = now + SPIN_MICROSECONDS;
  if (now < wait->end) return;
  wait->spins = -1;
  // Counted before the signal is checked again: the next signaller is either seen, or sees the sleeper.
  atomic_fetch_add(&team->numSleeping, 1);
  sleep_while(team, wait->seen);
  atomic_fetch_sub(&team->numSleeping, 1);
}

#define WAIT_UNTIL(team, condition) \
  for (Wait wait_ = {0, 0, 0}; wait_.seen = atomic_load(&(team)->signal), !(condition);) keep_waiting(team, &wait_)

static void give_signal(Team *team) {
  atomic_fetch_add(&team->signal, 1);
  if (atomic_load(&team->numSleeping) > 0) wake_all(team);
}

static uint32_t phase_of(unsigned long long taken) { return (uint32_t)(taken >> 32); }

int team_take(Member *member, int numTasks) {
  atomic_ullong *taken = &member->team->taken;
  unsigned long long now = atomic_load(taken);
  while (phase_of(now) == member->phase && (uint32_t)now < (uint32_t)numTasks)
    if (atomic_compare_exchange_weak(taken, &now, now + 1)) return (int)(uint32_t)now;
  return -1;
}

void team_done(Member *member, int numTasks) {
  Team *team = member->team;
  if (atomic_fetch_add(&team->numDone, 1) + 1 < numTasks) return;
  atomic_store(&team->numDone, 0);
  atomic_store(&team->taken, (unsigned long long)(member->phase + 1) << 32);
  if (team->numThreads > 1) give_signal(team);
}

void team_next_phase(Member *member) {
  WAIT_UNTIL(member->team, phase_of(atomic_load(&member->team->taken)) != member->phase);
  member->phase++;
}

void team_run(Team *team, TeamWork work, void *context) {
  team->work = work;
  team->context = context;
  team->firstPhase = phase_of(atomic_load(&team->taken));
  atomic_fetch_add(&team->generation, 1);
  if (team->numThreads > 1) give_signal(team);
  work(context, &(Member){team, 0, team->firstPhase});
  atomic_fetch_add(&team->generation, 1);
  WAIT_UNTIL(team, atomic_load(&team->numHelping) == 0);
}

void team_help(Team *team, int thread) {
  int last = 0;
  for (;;) {
    WAIT_UNTIL(team, atomic_load(&team->isEnding) || (atomic_load(&team->generation) != last && atomic_load(&team->generation) % 2 != 0));
    if (atomic_load(&team->isEnding)) return;
    // Counted before the generation is checked again, so that thread 0 does not end the work meanwhile.
    atomic_fetch_add(&team->numHelping, 1);
    last = atomic_load(&team->generation);
    if (last % 2 != 0) team->work(team->context, &(Member){team, thread, team->firstPhase});
    if (atomic_fetch_sub(&team->numHelping, 1) == 1) give_signal(team);
  }
}

int team_start(Team *team, int numThreads) {
  team->numThreads = numThreads;
  if (numThreads <= 1) return 0;
  int numStarted = start_threads(team);
  if (numStarted == numThreads - 1) return 0;
  if (numStarted >= 0) team_end(team);
  return -1;
}

void team_end(Team *team) {
  if (team->numThreads <= 1) return;
  atomic_store(&team->isEnding, 1);
  give_signal(team);
  join_threads(team);
}
