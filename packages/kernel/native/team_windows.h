// Threads of Windows.

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <stdlib.h>

struct TeamThreads {
  SRWLOCK lock;
  CONDITION_VARIABLE changed;
  int numStarted;
  struct Helper {
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

static void sleep_while(Team *team, int seen) {
  AcquireSRWLockExclusive(&team->threads->lock);
  while (atomic_load(&team->signal) == seen) SleepConditionVariableSRW(&team->threads->changed, &team->threads->lock, INFINITE, 0);
  ReleaseSRWLockExclusive(&team->threads->lock);
}

static void wake_all(Team *team) {
  AcquireSRWLockExclusive(&team->threads->lock);
  WakeAllConditionVariable(&team->threads->changed);
  ReleaseSRWLockExclusive(&team->threads->lock);
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
  InitializeSRWLock(&threads->lock);
  InitializeConditionVariable(&threads->changed);
  for (int i = 1; i < team->numThreads; i++) {
    threads->helpers[i] = (struct Helper){.team = team, .index = i};
    threads->helpers[i].thread = CreateThread(NULL, 0, help, &threads->helpers[i], 0, NULL);
    if (!threads->helpers[i].thread) break;
    threads->numStarted = i;
  }
  return threads->numStarted;
}
