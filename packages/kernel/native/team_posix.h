// Threads of Linux and macOS.

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct TeamThreads {
  int numStarted;
  struct Helper {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    pthread_t thread;
    Team *team;
    int index;
  } helpers[TEAM_MOST_THREADS];
};

static int64_t microseconds(int spins) {
  (void)spins;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void sleep_until_woken(Team *team, int thread) {
  struct Helper *helper = &team->threads->helpers[thread];
  pthread_mutex_lock(&helper->mutex);
  while (atomic_load(&team->states[thread].isAsleep)) pthread_cond_wait(&helper->woken, &helper->mutex);
  pthread_mutex_unlock(&helper->mutex);
}

static void notify(Team *team, int thread) {
  struct Helper *helper = &team->threads->helpers[thread];
  pthread_mutex_lock(&helper->mutex);
  pthread_cond_signal(&helper->woken);
  pthread_mutex_unlock(&helper->mutex);
}

#define CAN_LEAVE 1
#define RUN_UNTIL_EXIT(exit, work) \
  do { \
    jmp_buf here; \
    (exit) = &here; \
    if (_setjmp(here) == 0) work; \
  } while (0)
static void exit_work(void *exit) { _longjmp(*(jmp_buf *)exit, 1); }

static void *help(void *argument) {
  struct Helper *helper = argument;
  team_help(helper->team, helper->index);
  return NULL;
}

static void join_threads(Team *team) {
  for (int i = 1; i <= team->threads->numStarted; i++) pthread_join(team->threads->helpers[i].thread, NULL);
  for (int i = 0; i < team->numThreads; i++) {
    pthread_cond_destroy(&team->threads->helpers[i].woken);
    pthread_mutex_destroy(&team->threads->helpers[i].mutex);
  }
  free(team->threads);
  team->threads = NULL;
}

/** @returns the number of started threads, -1 when there is no memory */
static int start_threads(Team *team) {
  struct TeamThreads *threads = calloc(1, sizeof *threads);
  if (!threads) return -1;
  team->threads = threads;
  for (int i = 0; i < team->numThreads; i++) {
    threads->helpers[i] = (struct Helper){.team = team, .index = i};
    pthread_mutex_init(&threads->helpers[i].mutex, NULL);
    pthread_cond_init(&threads->helpers[i].woken, NULL);
  }
  // Signals are left to the host's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 1; i < team->numThreads; i++) {
    if (pthread_create(&threads->helpers[i].thread, NULL, help, &threads->helpers[i]) != 0) break;
    threads->numStarted = i;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return threads->numStarted;
}
