// Teams of threads: each task of each phase runs once and after all earlier phases, whoever sleeps or is suspended.

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include "check.h"
#include "random.h"
#include "team.h"

enum { MOST_PHASES = 8, MOST_TASKS = 96 };

typedef struct {
  int numPhases, numTasks[MOST_PHASES];
  atomic_int runs[MOST_PHASES][MOST_TASKS], numRun;
} Program;

static void run_program(void *context, Member *member) {
  Program *program = context;
  int numBefore = 0;
  for (int p = 0; p < program->numPhases; p++) {
    EACH_TASK(member, task, program->numTasks[p]) {
      if (atomic_load(&program->numRun) < numBefore) wrong("Task %d ran before the end of phase %d", task, p - 1);
      atomic_fetch_add(&program->runs[p][task], 1);
      atomic_fetch_add(&program->numRun, 1);
    }
    numBefore += program->numTasks[p];
    team_next_phase(member);
  }
}

static void wait_for_sleep(Team *team) {
  unsigned long long helpers = ((1ull << (team->numThreads - 1)) - 1) << 1;
  while ((atomic_load(&team->sleeping) & helpers) != helpers) sched_yield();
}

static void check_programs(Random *random, Team *team, int32_t numPrograms) {
  while (numPrograms-- > 0) {
    Program program = {.numPhases = random_in(random, 1, MOST_PHASES)};
    for (int p = 0; p < program.numPhases; p++) program.numTasks[p] = one_in(random, 3) ? 1 : random_in(random, 1, MOST_TASKS);
    if (one_in(random, 4)) wait_for_sleep(team);
    team_run(team, run_program, &program);
    for (int p = 0; p < program.numPhases; p++)
      for (int task = 0; task < program.numTasks[p]; task++)
        if (atomic_load(&program.runs[p][task]) != 1) wrong("Task %d of phase %d ran %d times", task, p, atomic_load(&program.runs[p][task]));
  }
}

static atomic_int isSuspended, mayResume;

static void suspend(int number) {
  (void)number;
  atomic_store(&isSuspended, 1);
  while (!atomic_load(&mayResume)) sched_yield();
}

typedef struct {
  atomic_int numTaken, hasHelped;
  pthread_t helper;
} Suspension;

/** Suspends the helper where it waits for the end of a phase, and ends the phase. */
static void suspend_helper(void *context, Member *member) {
  Suspension *suspension = context;
  EACH_TASK(member, task, 2) {
    atomic_fetch_add(&suspension->numTaken, 1);
    while (atomic_load(&suspension->numTaken) < 2) sched_yield();
    if (member->thread == 1) {
      sigset_t one;
      sigemptyset(&one);
      sigaddset(&one, SIGUSR1);
      pthread_sigmask(SIG_UNBLOCK, &one, NULL);
      suspension->helper = pthread_self();
      atomic_store(&suspension->hasHelped, 1);
    } else {
      while (!atomic_load(&suspension->hasHelped) || atomic_load(&member->team->states[1].isInside)) sched_yield();
      pthread_kill(suspension->helper, SIGUSR1);
      while (!atomic_load(&isSuspended)) sched_yield();
    }
  }
  team_next_phase(member);
  EACH_TASK(member, task, 1) if (member->thread != 0 && !atomic_load(&mayResume)) wrong("A suspended thread ran task %d", task);
  team_next_phase(member);
}

/** Work runs and ends without a suspended thread, which afterwards leaves the work that has ended and helps again. */
static void check_suspension(void) {
  Team team = {.numThreads = 0};
  if (team_start(&team, 2) != 0) wrong("Expected a team of two threads");
  sigaction(SIGUSR1, &(struct sigaction){.sa_handler = suspend}, NULL);
  team_run(&team, suspend_helper, &(Suspension){0});
  Program alone = {.numPhases = 2, .numTasks = {1, 1}};
  team_run(&team, run_program, &alone);
  atomic_store(&mayResume, 1);
  Suspension again = {0};
  team_run(&team, suspend_helper, &again);
  if (!atomic_load(&again.hasHelped)) wrong("Expected the thread to help again");
  team_end(&team);
}

void check_team(uint64_t seed, int32_t numPrograms, int32_t numThreads) {
  Random random = {seed};
  Team team = {.numThreads = 0};
  if (team_start(&team, numThreads) != 0) wrong("Expected a team of %d threads", numThreads);
  check_programs(&random, &team, numPrograms);
  team_end(&team);
  check_suspension();
}
