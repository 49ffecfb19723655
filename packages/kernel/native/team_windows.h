// Threads of Windows.

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <stdlib.h>

struct TeamThreads {
  int numStarted;
  struct Helper {
    SRWLOCK lock;
    CONDITION_VARIABLE woken;
    HANDLE thread;
    Team *team;
    int index;
  } helpers[TEAM_MOST_THREADS];
};

static int64_t microseconds(int spins) {
  (void)spins;
  LARGE_INTEGER now, perSecond;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&perSecond);
  return now.QuadPart / perSecond.QuadPart * 1000000 + now.QuadPart % perSecond.QuadPart * 1000000 / perSecond.QuadPart;
}

static void sleep_until_woken(Team *team, int thread) {
  struct Helper *helper = &team->threads->helpers[thread];
  AcquireSRWLockExclusive(&helper->lock);
  while (atomic_load(&team->states[thread].isAsleep)) SleepConditionVariableSRW(&helper->woken, &helper->lock, INFINITE, 0);
  ReleaseSRWLockExclusive(&helper->lock);
}

static void notify(Team *team, int thread) {
  struct Helper *helper = &team->threads->helpers[thread];
  AcquireSRWLockExclusive(&helper->lock);
  WakeConditionVariable(&helper->woken);
  ReleaseSRWLockExclusive(&helper->lock);
}

static DWORD WINAPI help(void *argument) {
  struct Helper *helper = argument;
  team_help(helper->team, helper->index);
  return 0;
}

static void join_threads(Team *team) {
  for (int i = 1; i <= team->threads->numStarted; i++) {
    WaitForSingleObject(team->threads->helpers[i].thread, INFINITE);
    CloseHandle(team->threads->helpers[i].thread);
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
    InitializeSRWLock(&threads->helpers[i].lock);
    InitializeConditionVariable(&threads->helpers[i].woken);
  }
  for (int i = 1; i < team->numThreads; i++) {
    threads->helpers[i].thread = CreateThread(NULL, 0, help, &threads->helpers[i], 0, NULL);
    if (!threads->helpers[i].thread) break;
    threads->numStarted = i;
  }
  return threads->numStarted;
}
