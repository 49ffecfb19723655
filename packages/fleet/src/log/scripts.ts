// Lua that keeps a request's log exact: one owner writes at a time, and each entry has one place.

import type { Redis } from "ioredis";

/** Time for which a log is kept after its last entry, in ms. */
export const [RUNNING_TTL_MS, ENDED_TTL_MS] = [3_600_000, 600_000] as const;

/**
 * Appends entries from a place on.
 * KEYS: log, meta. ARGV: epoch, owner, place of the first entry, channel, time to live in ms, entries.
 * Returns {outcome, last place}: 1 appended or there already, 0 a gap before the first, -1 another owner, -2 cancelled,
 * -3 another entry is there.
 */
const APPEND = `
local held = redis.call('HMGET', KEYS[2], 'epoch', 'owner', 'cancelled')
if held[3] then return {-2, 0} end
local epoch = tonumber(ARGV[1])
if held[1] and (tonumber(held[1]) > epoch or (tonumber(held[1]) == epoch and held[2] ~= ARGV[2])) then return {-1, 0} end
if not held[1] or tonumber(held[1]) < epoch then redis.call('HSET', KEYS[2], 'epoch', epoch, 'owner', ARGV[2]) end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local last = 0
if #newest > 0 then last = tonumber(string.match(newest[1][1], '^%d+')) end
local place = tonumber(ARGV[3])
if place > last + 1 then return {0, last} end
for index = 6, #ARGV do
  if place <= last then
    local there = redis.call('XRANGE', KEYS[1], place .. '-0', place .. '-0')
    if #there == 0 or there[1][2][2] ~= ARGV[index] then return {-3, place} end
  else
    redis.call('XADD', KEYS[1], place .. '-0', 'e', ARGV[index])
    redis.call('PUBLISH', ARGV[4], place .. ' ' .. ARGV[index])
  end
  place = place + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {1, place - 1}
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
 * KEYS: meta. ARGV: channel, id of the request, time to live in ms, reader. Returns 1 if it is cancelled.
 */
const CANCEL = `
local reader = redis.call('HGET', KEYS[1], 'reader')
if reader and reader ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
`;

/**
 * Makes a reader the one that follows a request; the one before it hears of that.
 * KEYS: meta. ARGV: client, reader, channel of the request. Returns {choices, model version, affinity, prompt tokens},
 * or nothing if the request is not there, was cancelled, or is another client's.
 */
const FOLLOW = `
local held = redis.call('HMGET', KEYS[1], 'cancelled', 'client', 'choices', 'version', 'affinity', 'promptTokens')
if held[1] or held[2] ~= ARGV[1] then return false end
redis.call('HSET', KEYS[1], 'reader', ARGV[2])
redis.call('PUBLISH', ARGV[3], 'reader:' .. ARGV[2])
return {held[3], held[4], held[5], held[6]}
`;

/**
 * Notes what the head of a queue shows, with the server's time.
 * KEYS: meta. ARGV: prompt tokens, completion tokens, tokens by expert, longest wait in ms, time to live in ms.
 */
const REGISTER = `
local now = redis.call('TIME')
local nowMs = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'prompt', ARGV[1], 'new', ARGV[2], 'experts', ARGV[3], 'deadline', nowMs + ARGV[4])
redis.call('HSETNX', KEYS[1], 'queued', nowMs)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return nowMs
`;

/**
 * Reads the lengths of queues and what waits at their heads.
 * KEYS: waiting list and set of priorities of each queue. ARGV: prefix and suffix of the hashes of requests.
 * Returns {time in ms, [{waiting, queued at, prompt tokens, completion tokens, deadline, tokens by expert} …]}.
 */
const PEEK = `
local now = redis.call('TIME')
local heads = {}
for index = 1, #KEYS, 2 do
  local waiting = redis.call('LLEN', KEYS[index])
  local ranked = redis.call('ZCARD', KEYS[index + 1])
  local head = false
  if waiting > 0 then head = redis.call('LINDEX', KEYS[index], -1)
  elseif ranked > 0 then head = redis.call('ZRANGE', KEYS[index + 1], 0, 0)[1] end
  local shown = {}
  if head then shown = redis.call('HMGET', ARGV[1] .. head .. ARGV[2], 'queued', 'prompt', 'new', 'deadline', 'experts') end
  local about = {waiting + ranked}
  for field = 1, 5 do about[field + 1] = shown[field] or '' end
  table.insert(heads, about)
end
return {now[1] * 1000 + math.floor(now[2] / 1000), heads}
`;

type Reply = Promise<unknown>;

/** Connection that knows the fleet's scripts. */
export interface ScriptedRedis extends Redis {
  fleetAppend(log: string, meta: string, ...args: readonly (string | number)[]): Reply;
  fleetClaim(log: string, meta: string, owner: string, ttlMs: number): Reply;
  fleetCancel(meta: string, ...args: readonly (string | number)[]): Reply;
  fleetFollow(meta: string, client: string, reader: string, channel: string): Reply;
  fleetRegister(meta: string, ...args: readonly (string | number)[]): Reply;
  fleetPeek(numKeys: number, ...args: readonly string[]): Reply;
}

/** Adds the fleet's scripts to a connection. */
export function withScripts(redis: Redis): ScriptedRedis {
  redis.defineCommand("fleetAppend", { numberOfKeys: 2, lua: APPEND });
  redis.defineCommand("fleetClaim", { numberOfKeys: 2, lua: CLAIM });
  redis.defineCommand("fleetCancel", { numberOfKeys: 1, lua: CANCEL });
  redis.defineCommand("fleetFollow", { numberOfKeys: 1, lua: FOLLOW });
  redis.defineCommand("fleetRegister", { numberOfKeys: 1, lua: REGISTER });
  redis.defineCommand("fleetPeek", { lua: PEEK });
  return redis as ScriptedRedis;
}
