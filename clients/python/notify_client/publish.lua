-- Record an event and announce it, in one atomic step.
--
--   publish(channel, {json [, 'KEY', key] [, 'KEEP', events] [, 'TTL', seconds] [, 'COLLAPSE', label]})  ->  id
--
-- It runs as the Redis function notify_publish, and as a script where the server has no functions. What it keeps:
--
--   notify:log:{channel}        list, oldest first, of "<id> <before> <label>\n<json>". <before> is the id that precedes the
--                               entry in the log's history, so that a reader sees where the log was cut.
--   notify:last:{channel}       id of the newest event, "!" behind it if that was final. Outlives the log by a day, so that an
--                               expired or evicted log is told from a channel that never had one.
--   notify:key:{channel}:<sha>  id of the event published with that idempotency key, for 24 h.
--   notify:clock                hash: last (newest id of all), floor (moments at which data may have been lost, oldest first),
--                               server (who holds the data: run id and replication id).
--
-- Everything is checked before the first write, and Redis refuses the whole script where memory is full or a replica is
-- read-only, so there is never a half of an event; and nothing is announced that was not stored.

local PREFIX = '@PREFIX@'
local MAX_EVENT_BYTES = @MAX_EVENT_BYTES@
local MAX_KEEP, MAX_TTL, KEY_SECONDS, AFTERLIFE = 10000, 30 * 86400, 86400, 86400
local MAX_DEPTH, MAX_TEXT, MAX_FLOORS, MAX_DIGITS = 256, 512, 32, 16

local CLOCK = PREFIX .. ':clock'
local function log_key(channel) return PREFIX .. ':log:{' .. channel .. '}' end
local function last_key(channel) return PREFIX .. ':last:{' .. channel .. '}' end
local function decimal(number) return string.format('%.0f', number) end

-- A value for an error message: one line, printable, not long.
local function show(text)
  text = text:gsub('[^\32-\126]', '?')
  if #text > 80 then text = text:sub(1, 77) .. '...' end
  return "'" .. text .. "'"
end

-- What is wrong with the caller's words is an error of its own code, told from a server that cannot write.
local function refuse(message) error({ err = 'INVALID ' .. message }, 0) end

local function is_utf8(text)
  -- Well-formed sequences become spaces, longest first (Unicode 15, table 3-7); what is left over is not UTF-8.
  for _, sequence in ipairs({
    '\240[\144-\191][\128-\191][\128-\191]', '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
    '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]', '\237[\128-\159][\128-\191]',
    '[\194-\223][\128-\191]',
  }) do
    text = text:gsub(sequence, ' ')
  end
  return not text:find('[\128-\255]')
end

-- A number that begins or ends with its point. (A search for a plain text costs nothing beside one for a pattern.)
local function has_bare_point(json)
  return json:find('.', 1, true) and (json:find('-.', 1, true) or json:byte(-1) == 46 or json:find('%d%.%D'))
end

-- cjson lets through what RFC 8259 does not: anything behind a NUL, control characters inside a string, and bare points.
local function is_strict(json, printable)
  if not printable and json:find('%z') then return false end
  if (printable or not json:find('[\1-\31]')) and not has_bare_point(json) then return true end
  local bare = json:gsub('\\.', '')
  for text in bare:gmatch('"([^"]*)"') do
    if text:find('[\1-\31]') then return false end
  end
  return not has_bare_point((bare:gsub('"[^"]*"', '""')))
end

-- Decode, or refuse with the reason. The settings are the server's, shared by all scripts, so they are put back.
local function decode(json)
  if #json > MAX_EVENT_BYTES then
    refuse('the event has ' .. #json .. ' bytes of JSON, at most ' .. MAX_EVENT_BYTES .. ' are allowed')
  end
  local printable = json:find('^[\32-\126]*$') -- anchored it is one run, not an attempt at each byte: 0.7 us for 190 bytes, not 2.5
  if not printable and json:find('[\128-\255]') and not is_utf8(json) then refuse('the event is not UTF-8') end
  cjson.decode_invalid_numbers(false)
  cjson.decode_max_depth(MAX_DEPTH)
  local ok, value = pcall(cjson.decode, json)
  cjson.decode_invalid_numbers(true)
  cjson.decode_max_depth(1000)
  if not ok then refuse('the event is not JSON: ' .. show(json) .. ': ' .. tostring(value):gsub('[^\32-\126]', '?')) end
  if not is_strict(json, printable) then refuse('the event is not JSON: ' .. show(json)) end
  return value
end

-- Whether the value is an event (rather than the data of one), and its last. Refuses an event with a wrong type or final.
local function is_final(value)
  if type(value) ~= 'table' or type(value.type) ~= 'string' then return false end
  for name in pairs(value) do
    if name ~= 'type' and name ~= 'data' and name ~= 'final' then return false end
  end
  if #value.type > 64 or not value.type:match('^%w[%w_.-]*$') then
    refuse('type ' .. show(value.type) .. ': only letters, digits and _ . - are allowed, at most 64, the first a letter or digit')
  end
  if value.final ~= nil and type(value.final) ~= 'boolean' then refuse('final: true or false is expected') end
  return value.final == true
end

local function whole(name, text, most)
  local number = text:match('^%d+$') and #text < 10 and tonumber(text)
  if not number or number < 1 or number > most then
    refuse(name .. ' ' .. show(text) .. ': a whole number from 1 to ' .. most .. ' is expected')
  end
  return number
end

local DEFAULTS = { KEEP = 100, TTL = 86400 }

local function options(args)
  if #args == 1 then return DEFAULTS end
  local chosen = { KEEP = DEFAULTS.KEEP, TTL = DEFAULTS.TTL }
  for i = 2, #args, 2 do
    local name, value = args[i]:upper(), args[i + 1]
    if not value then refuse('option ' .. show(args[i]) .. ' has no value') end
    if name == 'KEEP' then
      value = whole('KEEP', value, MAX_KEEP)
    elseif name == 'TTL' then
      value = whole('TTL', value, MAX_TTL)
    elseif name == 'KEY' or name == 'COLLAPSE' then
      if #value < 1 or #value > MAX_TEXT then refuse(name .. ' has ' .. #value .. ' bytes, 1 to ' .. MAX_TEXT .. ' are allowed') end
    else
      refuse('option ' .. show(args[i]) .. ' is unknown: KEY, KEEP, TTL and COLLAPSE are known')
    end
    chosen[name] = value
  end
  return chosen
end

local function check_channel(channel)
  if #channel > 128 or not channel:match('^%w[%w_.:@-]*$') then
    refuse('channel ' .. show(channel) .. ': only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit')
  end
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local known_as -- what this server process was called when it was last asked

-- Who holds the data: the process, and the history it writes, which a promotion renames.
local function identity()
  local replication = redis.call('INFO', 'replication')
  local history = replication:match('master_replid:(%x+)')
  return redis.call('INFO', 'server'):match('run_id:(%x+)') .. ' ' .. history, replication:match('second_repl_offset:(%-?%d+)') ~= '-1'
end

-- Can this holder have lost what the one before it acknowledged? Not a restart with an append-only file. A replica that was
-- promoted may have lagged; without the file all that came after the last snapshot is gone.
local function may_have_lost(before, now, promoted)
  if before:sub(1, 40) == now:sub(1, 40) then return promoted end
  return promoted or redis.call('INFO', 'persistence'):match('aof_enabled:(%d)') ~= '1'
end

-- All of them are kept, for each is the place of a loss in the logs that go across it.
local function raise_floor(id)
  local floors = {}
  for floor in (redis.call('HGET', CLOCK, 'floor') or ''):gmatch('%d+') do floors[#floors + 1] = floor end
  floors[#floors + 1] = decimal(id)
  redis.call('HSET', CLOCK, 'last', decimal(id), 'floor', table.concat(floors, ' ', math.max(1, #floors - MAX_FLOORS + 1)))
end

-- The newest id of all. Where the data is new, gone, or perhaps older than what clients have seen, a floor is raised at
-- this moment: who stands below it is told of a gap. Asked before every write, so that the floor lies exactly between what
-- an earlier holder of the data acknowledged and what this one does.
local function open(time)
  local clock = redis.call('HMGET', CLOCK, 'last', 'server')
  local last, before = tonumber(clock[1]), clock[2] or ''
  if last and before == known_as then return last end
  local promoted
  known_as, promoted = identity()
  if last and before == known_as then return last end
  if not last or may_have_lost(before, known_as, promoted) then
    last = math.max(time, (last or 0) + 1)
    raise_floor(last)
  end
  redis.call('HSET', CLOCK, 'server', known_as)
  return last
end

-- id, predecessor and label of a log entry; nil for what somebody else put there.
local function parse(entry)
  local id, before, label = (entry or ''):match('^(%d+) (%d+) ([^\n]*)\n')
  if id and #id <= MAX_DIGITS and #before <= MAX_DIGITS then return id, before, label end
end

local function publish(channel, args)
  local call = redis.call -- looked up eight times it would be 3 % of the whole
  local json = args[1]
  if not json then refuse('the event is missing') end
  check_channel(channel)
  local chosen = options(args)
  local final = is_final(decode(json))
  local key = chosen.KEY and PREFIX .. ':key:{' .. channel .. '}:' .. redis.sha1hex(chosen.KEY)
  local known = key and call('GET', key)
  if known then return known end

  -- Two events in one microsecond, or a clock set back: still unique, still rising.
  local time = now()
  local id = decimal(math.max(time, open(time) + 1))
  local log, last = log_key(channel), call('GET', last_key(channel))
  local newest_id, newest_before, newest_label
  if chosen.COLLAPSE or not last then newest_id, newest_before, newest_label = parse(call('LINDEX', log, -1)) end
  if newest_id and tonumber(newest_id) >= tonumber(id) then newest_id, newest_label = nil end -- a stranger's, too
  local before = last and last:match('^%d+') or newest_id or '0'
  local label = chosen.COLLAPSE and chosen.COLLAPSE:gsub('[^%w_.:@-]', function(c) return string.format('%%%02x', c:byte()) end) or ''

  if chosen.COLLAPSE and newest_label == label then
    call('LSET', log, -1, id .. ' ' .. newest_before .. ' ' .. label .. '\n' .. json)
  elseif call('RPUSH', log, id .. ' ' .. before .. ' ' .. label .. '\n' .. json) > chosen.KEEP then
    call('LTRIM', log, -chosen.KEEP, -1)
  end
  call('EXPIRE', log, chosen.TTL)
  call('SET', last_key(channel), final and id .. '!' or id, 'EX', chosen.TTL + AFTERLIFE)
  call('HSET', CLOCK, 'last', id)
  if key then call('SET', key, id, 'EX', KEY_SECONDS) end
  call('PUBLISH', PREFIX .. ':' .. channel, id .. ' ' .. before .. '\n' .. json)
  return id
end

-- Run one of these for a caller: what it refuses becomes the error reply, the same on every server version. Before Redis 7 an
-- error is text, and the server's own refusals (OOM, READONLY, NOREPLICAS) have the place in the script before their code.
local function answer(run, ...)
  local ok, result = pcall(run, ...)
  if ok then return result end
  if type(result) == 'table' then return redis.error_reply(result.err) end
  return redis.error_reply(result:match('^%u+ .*') or result:match('^@user_script: %d+: %-(%u+ .*)') or 'ERR ' .. result)
end

-- For a gateway that (re)connects: no id from now on lies below what it has heard of, whatever this server lost. An id that
-- is above all that the server knows of is gone from it, and others may be.
local function greet(heard)
  local time = now()
  local last = open(time)
  heard = math.min(tonumber(heard) or 0, time + 86400 * 1000000)
  if heard > last then
    last = heard + 1
    raise_floor(last)
  end
  return decimal(last)
end
