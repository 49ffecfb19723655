#include "scenario.h"
#include <stdlib.h>
#include <string.h>
#include "draft.h"

enum { MOST_PAGES = 64, MOST_RUNNING = 6 };

typedef struct {
  /** Of the scenario; -1 for none. */
  int32_t sequence;
  int32_t pages[MOST_PAGES], numPages;
  /** State behind its rows, of a model with recurrences. */
  int32_t state;
  int32_t isInStep;
} Running;

typedef struct {
  Random *random;
  const TestModel *model;
  Scenario *scenario;
  Running running[MOST_RUNNING];
  /** By page: sequences that have it. */
  int32_t users[MOST_PAGES];
} World;

/** A page that nobody has, from a random one on, or -1. */
static int32_t free_page(World *world) {
  int32_t count = world->model->numPages, first = random_in(world->random, 0, count - 1);
  for (int32_t i = 0; i < count; i++)
    if (world->users[(first + i) % count] == 0) return (first + i) % count;
  return -1;
}

static void end_sequence(World *world, Running *running) {
  for (int32_t i = 0; i < running->numPages; i++) world->users[running->pages[i]]--;
  *running = (Running){.sequence = -1};
}

/** Begins a sequence, now and then on whole pages of another one. */
static void begin_sequence(World *world, Running *running) {
  Scenario *scenario = world->scenario;
  if (scenario->numSequences == MOST_SEQUENCES) return;
  *running = (Running){.sequence = scenario->numSequences++};
  History *history = &scenario->histories[running->sequence];
  const Running *other = &world->running[random_in(world->random, 0, MOST_RUNNING - 1)];
  if (other == running || other->sequence < 0 || world->model->model.isEncoder || world->model->hasStates || one_in(world->random, 2)) return;
  const History *from = &scenario->histories[other->sequence];
  // Rows of this step are not there yet; a last position stays free for the first row.
  int32_t most = other->isInStep ? 0 : from->numTokens / PAGE_TOKENS;
  if (most * PAGE_TOKENS >= world->model->options.maxPositions) most--;
  running->numPages = most < 1 ? 0 : random_in(world->random, 1, most);
  for (int32_t i = 0; i < running->numPages; i++) world->users[running->pages[i] = other->pages[i]]++;
  history->numTokens = running->numPages * PAGE_TOKENS;
  memcpy(history->tokens, from->tokens, (size_t)history->numTokens * 4);
}

/** Adds random wanted rows of one sequence, some of them several times. */
static void add_wishes(World *world, Draft *draft, int32_t sequence, int32_t firstRow, int32_t numRows, int32_t position, int32_t oneIn) {
  int32_t numLogits = world->model->model.numLogits, givesStates = world->model->model.head < 0;
  for (int32_t r = 0; r < numRows; r++)
    while (one_in(world->random, oneIn) && draft->numWanted < DRAFT_WANTED) {
      Wish wish = {sequence, position + r, random_in(world->random, 0, numLogits - 1)};
      // Successive rows of one place are averaged where there is no head.
      int32_t isJoined = givesStates && draft->numFullRows > 0 && draft->fullPlaces[draft->numWanted - 1] == draft->numFullRows - 1;
      int32_t place = isJoined && one_in(world->random, 2) ? draft->numFullRows - 1 : draft->numFullRows;
      draft_wish(draft, firstRow + r, wish, givesStates || one_in(world->random, 4) ? place : -1);
      if (givesStates) break;
    }
}

/** Gives a sequence rows in the step, as far as pages and positions last. */
static void grow(World *world, Draft *draft, Running *running, int32_t mostRows, int32_t oneIn) {
  const KernelOptions *options = &world->model->options;
  History *history = &world->scenario->histories[running->sequence];
  int32_t position = history->numTokens, numRows = 0;
  while (numRows < mostRows && position + numRows < options->maxPositions) {
    if ((position + numRows) / PAGE_TOKENS == running->numPages) {
      int32_t page = free_page(world);
      if (page < 0) break;
      world->users[page]++;
      running->pages[running->numPages++] = page;
    }
    history->tokens[position + numRows++] = random_in(world->random, 0, world->model->numTokens - 1);
  }
  if (numRows == 0) return end_sequence(world, running);
  int32_t firstRow = draft->numRows;
  history->numTokens += numRows;
  running->isInStep = 1;
  draft_rows(draft, world->model, history->tokens + position, numRows, position, running->pages);
  if (world->model->hasStates) {
    // A sequence has three states: one to read, one to write, which may be the same, and one that nobody reads.
    int32_t own = 3 * (int32_t)(running - world->running), to = own + random_in(world->random, 0, 1);
    draft_states(draft, random_in(world->random, 0, numRows - 1), (const int32_t[]){position > 0 ? running->state : -1, own + 2, to});
    running->state = to;
  }
  add_wishes(world, draft, running->sequence, firstRow, numRows, position, oneIn);
}

static int32_t random_candidates(Random *random, int32_t numLogits) {
  return one_in(random, 4) ? numLogits : random_in(random, 1, numLogits < 40 ? numLogits : 40);
}

Scenario make_scenario(Random *random, const TestModel *model) {
  Scenario scenario = {.numRequests = 0};
  World world = {.random = random, .model = model, .scenario = &scenario};
  for (int32_t i = 0; i < MOST_RUNNING; i++) world.running[i].sequence = -1;
  int32_t numSteps = random_in(random, 3, 10);
  for (int32_t s = 0; s < numSteps; s++) {
    Draft *draft = calloc(1, sizeof *draft);
    if (!draft) abort();
    draft->numCandidates = random_candidates(random, model->model.numLogits);
    int32_t isDecode = one_in(random, 2), oneIn = one_in(random, 3) ? 1 << 20 : isDecode ? 2 : 4;
    for (int32_t i = 0; i < MOST_RUNNING && draft->numRows < model->options.maxRows; i++) {
      Running *running = &world.running[i];
      if (one_in(random, 4)) continue;
      if (running->sequence >= 0 && (model->model.isEncoder || one_in(random, 8))) end_sequence(&world, running);
      if (running->sequence < 0) begin_sequence(&world, running);
      if (running->sequence < 0) continue;
      int32_t most = model->options.maxRows - draft->numRows;
      grow(&world, draft, running, isDecode ? 1 : random_in(random, 1, most), oneIn);
    }
    for (int32_t i = 0; i < MOST_RUNNING; i++) world.running[i].isInStep = 0;
    if (draft->numRows > 0) add_request(&scenario, draft, model->model.numLogits);
    free(draft);
  }
  return scenario;
}

Scenario make_alone(Random *random, const TestModel *model, const Scenario *from, int32_t sequence) {
  Scenario scenario = {.numSequences = 1};
  const History *history = &from->histories[sequence];
  int32_t pages[MOST_PAGES], first = random_in(random, 0, model->numPages - 1);
  for (int32_t i = 0; i < model->numPages; i++) pages[i] = (first + i) % model->numPages;
  size_t at = 0;
  for (int32_t position = 0; position < history->numTokens;) {
    int32_t left = history->numTokens - position, most = left < model->options.maxRows ? left : model->options.maxRows;
    // Within the room for requests, also where a step has one row.
    int32_t numRows = (left + 7) / 8 > most ? most : random_in(random, (left + 7) / 8, most);
    if (model->model.isEncoder) numRows = left;
    if (scenario.numRequests == MOST_STEPS) break;
    Draft *draft = calloc(1, sizeof *draft);
    if (!draft) abort();
    draft->numCandidates = 1;
    draft_rows(draft, model, history->tokens + position, numRows, position, pages);
    if (model->hasStates) draft_states(draft, numRows, (const int32_t[]){position > 0 ? 0 : -1, 1, 0});
    for (; at < from->numWishes; at++) {
      Wish wish = from->wishes[at];
      if (wish.sequence != sequence) continue;
      if (wish.position >= position + numRows) break;
      draft_wish(draft, wish.position - position, (Wish){0, wish.position, wish.target}, -1);
    }
    add_request(&scenario, draft, model->model.numLogits);
    free(draft);
    position += numRows;
  }
  return scenario;
}
