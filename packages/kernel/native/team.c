#include "team.h"

#if defined(__wasm__)
#include "team_wasm.h"
#elif defined(_WIN32)
#include "team_windows.h"
#else
#include "team_posix.h"
#endif

#ifndef CAN_LEAVE
#define CAN_LEAVE 0
#define RUN_UNTIL_EXIT(exit, work) work
static void exit_work(void *exit) { (void)exit; }
#endif

// Threads wait this long before they sleep: a phase lasts 2 to 50 microseconds, the pause for sampling 100 and more.
enum { SPIN_MICROSECONDS = 50, SPINS_A_LOOK = 64 };

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/** One wait: its iterations, and the time at which the thread sleeps. */
typedef struct {
  int spins;
  int64_t end;
} Wait;

static int has_waited(Wait *wait) {
  pause_briefly();
  if (++wait->spins % SPINS_A_LOOK != 0) return 0;
  int64_t now = microseconds(wait->spins);
  if (wait->end == 0) wait->end = now + SPIN_MICROSECONDS;
  return now >= wait->end;
}

static void mark_asleep(Team *team, int thread) {
  atomic_store(&team->states[thread].isAsleep, 1);
  atomic_fetch_or(&team->sleeping, 1ull << thread);
}

/** Wakes a thread if it sleeps. */
static void wake(Team *team, int thread) {
  unsigned long long bit = 1ull << thread;
  if ((atomic_load(&team->sleeping) & bit) == 0 || (atomic_fetch_and(&team->sleeping, ~bit) & bit) == 0) return;
  atomic_store(&team->states[thread].isAsleep, 0);
  notify(team, thread);
}

// A thread is marked before the condition is checked again: who makes it true is either seen, or sees the sleeper.
#define WAIT_UNTIL(team, thread, condition) \
  for (Wait wait_ = {0, 0}; !(condition);) { \
    if (!has_waited(&wait_)) continue; \
    mark_asleep(team, thread); \
    if (condition) wake(team, thread); \
    else sleep_until_woken(team, thread); \
    wait_ = (Wait){0, 0}; \
  }

/** Wakes two threads, as these do in turn, while more tasks are left than threads are awake without one. */
static void call_helpers(Team *team, int numTaken, int numTasks) {
  unsigned long long sleeping = atomic_load(&team->sleeping);
  if (sleeping == 0) return;
  int numFree = team->numThreads - __builtin_popcountll(sleeping) - (numTaken - atomic_load(&team->numDone));
  for (int i = 0; i < 2 && sleeping != 0 && numTasks - numTaken > numFree + i; i++, sleeping &= sleeping - 1) wake(team, __builtin_ctzll(sleeping));
}

/** Enters a helper's work. @returns whether it still runs */
static int enter(const Member *member) {
  Team *team = member->team;
  atomic_store(&team->states[member->thread].isInside, 1);
  return member->generation % 2 != 0 && atomic_load(&team->generation) == member->generation;
}

static void leave(const Member *member) {
  Team *team = member->team;
  atomic_store(&team->states[member->thread].isInside, 0);
  if (atomic_load(&team->generation) % 2 == 0) wake(team, 0);
}

static uint32_t phase_of(unsigned long long phaseAndTask) { return (uint32_t)(phaseAndTask >> 32); }

int team_take(Member *member, int numTasks) {
  Team *team = member->team;
  unsigned long long now = atomic_load(&team->phaseAndTask);
  while (phase_of(now) == member->phase && (uint32_t)now < (uint32_t)numTasks)
    if (atomic_compare_exchange_weak(&team->phaseAndTask, &now, now + 1)) {
      call_helpers(team, (int)(uint32_t)now + 1, numTasks);
      return (int)(uint32_t)now;
    }
  return -1;
}

void team_done(Member *member, int numTasks) {
  Team *team = member->team;
  if (atomic_fetch_add(&team->numDone, 1) + 1 < numTasks) return;
  atomic_store(&team->numDone, 0);
  atomic_store(&team->phaseAndTask, (unsigned long long)(member->phase + 1) << 32);
  // Others are woken by tasks, or not at all.
  wake(team, 0);
}

void team_next_phase(Member *member) {
  Team *team = member->team;
#define HAS_ENDED (phase_of(atomic_load(&team->phaseAndTask)) != member->phase)
  int mayLeave = CAN_LEAVE && member->thread != 0;
  if (mayLeave && !HAS_ENDED) leave(member);
  WAIT_UNTIL(team, member->thread, HAS_ENDED);
#undef HAS_ENDED
  if (mayLeave && !enter(member)) exit_work(member->exit);
  member->phase++;
}

void team_run(Team *team, TeamWork work, void *context) {
  team->work = work;
  team->context = context;
  team->firstPhase = phase_of(atomic_load(&team->phaseAndTask));
  atomic_fetch_add(&team->generation, 1);
  work(context, &(Member){.team = team, .phase = team->firstPhase});
  atomic_fetch_add(&team->generation, 1);
  for (int thread = 1; thread < team->numThreads; thread++) {
    atomic_int *isInside = &team->states[thread].isInside;
    // Where threads cannot leave work, one may sleep in it.
    if (!CAN_LEAVE && atomic_load(isInside)) wake(team, thread);
    WAIT_UNTIL(team, 0, !atomic_load(isInside));
  }
}

static void help_once(Member *member) {
  Team *team = member->team;
  if (enter(member)) {
    member->phase = team->firstPhase;
    RUN_UNTIL_EXIT(member->exit, team->work(team->context, member));
  }
  leave(member);
}

void team_help(Team *team, int thread) {
  Member member = {.team = team, .thread = thread};
  for (;;) {
    WAIT_UNTIL(team, thread, atomic_load(&team->isEnding) || (atomic_load(&team->generation) != member.generation && atomic_load(&team->generation) % 2 != 0));
    if (atomic_load(&team->isEnding)) return;
    member.generation = atomic_load(&team->generation);
    help_once(&member);
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
  for (int thread = 1; thread < team->numThreads; thread++) wake(team, thread);
  join_threads(team);
}
