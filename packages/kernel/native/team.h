// Threads that run the phases of one piece of work together. No thread is created while work runs.
//
// A phase ends when its tasks are done, not when all threads have arrived. A thread that the system has suspended
// delays the others only if it holds a task. Afterwards it runs through the phases that it missed, or leaves work that
// has ended. A thread that takes a task wakes two others while more tasks are left than awake threads
// could take.

#pragma once
#include <stdatomic.h>
#include <stdint.h>

enum { TEAM_MOST_THREADS = 64 };

/** A thread that takes part in work. */
typedef struct {
  struct Team *team;
  int thread;
  uint32_t phase;
  /** Generation of the work. */
  int generation;
  /** Where a thread goes on that leaves work, a `jmp_buf`. */
  void *exit;
} Member;

typedef void (*TeamWork)(void *context, Member *member);

typedef struct Team {
  int numThreads;
  TeamWork work;
  void *context;
  /** First phase of the running work. */
  uint32_t firstPhase;
  /** The running phase in the upper half, its next task in the lower half. */
  _Alignas(64) atomic_ullong phaseAndTask;
  _Alignas(64) atomic_int numDone;
  /** Bits of the threads that sleep. */
  _Alignas(64) atomic_ullong sleeping;
  /** Counts pieces of work; odd while one runs. */
  _Alignas(64) atomic_int generation;
  atomic_int isEnding;
  struct TeamThreads *threads;
  struct {
    /** Whether the thread runs code of the work, and does not wait. */
    _Alignas(64) atomic_int isInside;
    /** 0 ends the thread's sleep. */
    atomic_int isAsleep;
  } states[TEAM_MOST_THREADS];
} Team;

/**
 * Starts `numThreads - 1` threads; none in WebAssembly, where workers call `team_help`.
 * @returns 0, or -1 when they cannot be started
 */
int team_start(Team *team, int numThreads);
/** Runs `work` on all threads, the caller being thread 0, and returns when it is done and no thread runs its code. */
void team_run(Team *team, TeamWork work, void *context);
/** Runs a thread other than 0 until the team ends. */
void team_help(Team *team, int thread);
/** Ends and joins the threads; no work may be running. */
void team_end(Team *team);

/** Takes a task of the member's phase. @returns -1 when all `numTasks`, at least one, are taken */
int team_take(Member *member, int numTasks);
/** Marks a task as done; the last one ends the phase. */
void team_done(Member *member, int numTasks);
/** Waits for the end of the member's phase, and enters the next one. */
void team_next_phase(Member *member);

/** Runs the following statement for each task of a phase that this member takes. */
#define EACH_TASK(member, task, numTasks) \
  for (int task, end_ = (numTasks); (task = team_take(member, end_)) >= 0; team_done(member, end_))
