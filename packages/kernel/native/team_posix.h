// Threads of Linux and macOS.

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct TeamThreads {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int numStarted;
  struct Helper {
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

static void sleep_while(Team *team, int seen) {
  pthread_mutex_lock(&team->threads->mutex);
  while (atomic_load(&team->signal) == seen) pthread_cond_wait(&team->threads->changed, &team->threads->mutex);
  pthread_mutex_unlock(&team->threads->mutex);
}

static void wake_all(Team *team) {
  pthread_mutex_lock(&team->threads->mutex);
  pthread_cond_broadcast(&team->threads->changed);
  pthread_mutex_unlock(&team->threads->mutex);
}

static void *help(void *argument) {
  struct Helper *helper = argument;
  team_help(helper->team, helper->index);
  return NULL;
}

static void join_threads(Team *team) {
  for (int i = 1; i <= team->threads->numStarted; i++) pthread_join(team->threads->helpers[i].thread, NULL);
  pthread_cond_destroy(&team->threads->changed);
  pthread_mutex_destroy(&team->threads->mutex);
  free(team->threads);
  team->threads = NULL;
}

/** @returns the number of started threads, -1 when there is no memory */
static int start_threads(Team *team) {
  struct TeamThreads *threads = calloc(1, sizeof *threads);
  if (!threads) return -1;
  team->threads = threads;
  pthread_mutex_init(&threads->mutex, NULL);
  pthread_cond_init(&threads->changed, NULL);
  // Signals are left to the host's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 1; i < team->numThreads; i++) {
    threads->helpers[i] = (struct Helper){.team = team, .index = i};
    if (pthread_create(&threads->helpers[i].thread, NULL, help, &threads->helpers[i]) != 0) break;
    threads->numStarted = i;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return threads->numStarted;
}
