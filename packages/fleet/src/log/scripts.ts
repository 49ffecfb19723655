// Lua that keeps a request's log exact: one owner writes at a time, and each entry has one place.

import type { Redis } from "ioredis";

/** Time for which a log is kept after its last entry, in ms. */
export const [RUNNING_TTL_MS, ENDED_TTL_MS] = [3_600_000, 600_000] as const;

/** Entries after which the time that a log is kept begins again. */
const TTL_ENTRIES = 32;

/**
 * Appends entries of several requests, of each from a place on, and tells each front about those that it follows.
 * KEYS: log, meta and job of each request. ARGV: prefix of the channels of fronts; of each request: job, epoch, owner,
 * place of the first entry, time to live in ms, 1 if the last entry ends the answer, number of entries, entries.
 * Returns {outcome, last place} of each: 1 appended or there already, 0 a gap before the first, -1 another owner,
 * -2 cancelled, -3 another entry is there.
 */
const APPEND = `
local heard = {}
local function append(log, meta, job, at)
  local epoch, owner, place, count = tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 6])
  local held = redis.call('HMGET', meta, 'epoch', 'owner', 'cancelled', 'reader')
  if held[3] then return {-2, 0} end
  local known = tonumber(held[1] or 0)
  if known > epoch or (known == epoch and held[2] ~= owner) then return {-1, 0} end
  if known < epoch then redis.call('HSET', meta, 'epoch', epoch, 'owner', owner) end
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  local last = 0
  if #newest > 0 then last = tonumber(string.match(newest[1][1], '^%d+')) end
  if place > last + 1 then return {0, last} end
  local lines = nil
  local front = string.match(held[4] or '', '^[^/]+')
  if front then
    lines = heard[front] or {}
    heard[front] = lines
  end
  for index = at + 7, at + 6 + count do
    local entry = ARGV[index]
    if place <= last then
      local there = redis.call('XRANGE', log, place .. '-0', place .. '-0')
      if #there == 0 or there[1][2][2] ~= entry then return {-3, place} end
    else
      redis.call('XADD', log, place .. '-0', 'e', entry)
      if lines then lines[#lines + 1] = ARGV[at] .. ' ' .. place .. ' ' .. entry end
    end
    place = place + 1
  end
  if last == 0 or ARGV[at + 5] == '1' or math.floor(last / ${TTL_ENTRIES}) < math.floor((place - 1) / ${TTL_ENTRIES}) then
    redis.call('PEXPIRE', log, ARGV[at + 4])
    redis.call('PEXPIRE', meta, ARGV[at + 4])
    if redis.call('GET', job) == ARGV[at] then redis.call('PEXPIRE', job, ARGV[at + 4]) end
  end
  return {1, place - 1}
end
local outcomes = {}
local at = 2
for index = 1, #KEYS, 3 do
  outcomes[#outcomes + 1] = append(KEYS[index], KEYS[index + 1], KEYS[index + 2], at)
  at = at + 7 + tonumber(ARGV[at + 6])
end
for front, lines in pairs(heard) do
  if #lines > 0 then redis.call('PUBLISH', ARGV[1] .. front, table.concat(lines, '\\n')) end
end
return outcomes
`;

/**
 * Makes a worker the owner of a request; earlier owners can write no more.
 * KEYS: log, meta. ARGV: owner, time to live in ms. Returns {epoch, cancelled, entries, ms since it was queued}.
 */
const CLAIM = `
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local entries = {}
for index, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do entries[index] = entry[2][2] end
local now = redis.call('TIME')
local nowMs = now[1] * 1000 + math.floor(now[2] / 1000)
local queuedMs = tonumber(redis.call('HGET', KEYS[2], 'queued') or nowMs)
return {epoch, redis.call('HEXISTS', KEYS[2], 'cancelled'), entries, nowMs - queuedMs}
`;

/**
 * Cancels a request, unless another reader than the given one follows it.
 * KEYS: meta, job of the request. ARGV: channel, job, time to live in ms, reader. Returns 1 if it is cancelled.
 */
const CANCEL = `
local reader = redis.call('HGET', KEYS[1], 'reader')
if reader and reader ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
`;

/**
 * Makes a reader the one that follows a request; the front of the one before it hears of that.
 * KEYS: meta. ARGV: client, reader, prefix of the channels of fronts, job. Returns {choices, model version, affinity,
 * prompt tokens}, or nothing for a request that is not there, was cancelled, or is another client's.
 */
const FOLLOW = `
local held = redis.call('HMGET', KEYS[1], 'cancelled', 'client', 'choices', 'version', 'affinity', 'prompt', 'reader')
if held[1] or held[2] ~= ARGV[1] then return false end
redis.call('HSET', KEYS[1], 'reader', ARGV[2])
local front = string.match(held[7] or '', '^[^/]+')
if front then redis.call('PUBLISH', ARGV[3] .. front, ARGV[4] .. ' reader ' .. ARGV[2]) end
return {held[3], held[4], held[5], held[6]}
`;

/**
 * Notes what the head of a queue shows, with the server's time, and what a front needs to follow the answer. The reader
 * stays if there is one.
 * KEYS: meta, job of the request. ARGV: longest wait in ms, time to live in ms, reader, job, names and values.
 */
const REGISTER = `
local now = redis.call('TIME')
local nowMs = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'deadline', nowMs + ARGV[1], unpack(ARGV, 5))
redis.call('HSETNX', KEYS[1], 'queued', nowMs)
redis.call('HSETNX', KEYS[1], 'reader', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[2])
return nowMs
`;

/**
 * Reads the lengths of queues, and what their next jobs need.
 * KEYS: waiting list and set of priorities of each queue. ARGV: prefix and suffix of the hashes of requests, largest
 * number of jobs of a queue that are shown.
 * Returns {time in ms, {{number of jobs, {queued at, prompt tokens, completion tokens, deadline, tokens by expert,
 * choices} of each job} of each queue}}.
 */
const PEEK = `
local now = redis.call('TIME')
local most = tonumber(ARGV[3])
local queues = {}
for index = 1, #KEYS, 2 do
  local waiting = redis.call('LLEN', KEYS[index])
  local ranked = redis.call('ZCARD', KEYS[index + 1])
  local ids = {}
  if waiting > 0 then
    local list = redis.call('LRANGE', KEYS[index], -most, -1)
    for place = #list, 1, -1 do ids[#ids + 1] = list[place] end
  end
  if ranked > 0 and #ids < most then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[index + 1], 0, most - #ids - 1)) do ids[#ids + 1] = id end
  end
  local queue = {waiting + ranked}
  for _, id in ipairs(ids) do
    local shown = redis.call('HMGET', ARGV[1] .. id .. ARGV[2], 'queued', 'prompt', 'new', 'deadline', 'experts', 'choices')
    for field = 1, 6 do shown[field] = shown[field] or '' end
    queue[#queue + 1] = shown
  end
  queues[#queues + 1] = queue
end
return {now[1] * 1000 + math.floor(now[2] / 1000), queues}
`;

type Reply = Promise<unknown>;

/** Connection that knows the fleet's scripts. */
export interface ScriptedRedis extends Redis {
  fleetAppend(numKeys: number, ...args: readonly (string | number)[]): Reply;
  fleetClaim(log: string, meta: string, owner: string, ttlMs: number): Reply;
  fleetCancel(meta: string, job: string, ...args: readonly (string | number)[]): Reply;
  fleetFollow(meta: string, ...args: readonly string[]): Reply;
  fleetRegister(meta: string, job: string, ...args: readonly (string | number)[]): Reply;
  fleetPeek(numKeys: number, ...args: readonly (string | number)[]): Reply;
}

/** Adds the fleet's scripts to a connection. */
export function withScripts(redis: Redis): ScriptedRedis {
  redis.defineCommand("fleetAppend", { lua: APPEND });
  redis.defineCommand("fleetClaim", { numberOfKeys: 2, lua: CLAIM });
  redis.defineCommand("fleetCancel", { numberOfKeys: 2, lua: CANCEL });
  redis.defineCommand("fleetFollow", { numberOfKeys: 1, lua: FOLLOW });
  redis.defineCommand("fleetRegister", { numberOfKeys: 2, lua: REGISTER });
  redis.defineCommand("fleetPeek", { lua: PEEK });
  return redis as ScriptedRedis;
}
