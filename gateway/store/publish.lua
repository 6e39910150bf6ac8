-- Record an event and announce it, in one atomic step.
--
--   publish(channel, {json [, 'KEY', key] [, 'KEEP', events] [, 'TTL', seconds] [, 'COLLAPSE', label]})  ->  id
--
-- It runs as the Redis function notify_publish, and as a script where the server has no functions. What it keeps:
--
--   notify:log:{channel}        list, oldest first, of "<id> <before>\n<json>", or "<id> <before> <label>\n<json>". <before> is
--                               the id that precedes the entry in the log's history, so that a reader sees where the log was
--                               cut: 0 if none does, and without its first digits where the entry's own id has the same.
--   notify:last:{channel}       id of the newest event and a digit, the sum of 1 if it was final and 2 if it had a TTL of its own.
--                               Outlives the log by a day, so that an expired or evicted log is told from a channel that never
--                               had one. All digits: Redis keeps it as a number, 32 bytes smaller than a text.
--   notify:key:{channel}:<sha>  id of the event published with that idempotency key, for 24 h.
--   notify:clock                newest id of all.
--   notify:holder               who holds the data (run id and replication id), and behind it the floors: moments at which data
--                               may have been lost, oldest first.
--
-- Everything is checked before the first write, and Redis refuses the whole script where memory is full or a replica is
-- read-only, so there is never a half of an event; and nothing is announced that was not stored.

local PREFIX = '@PREFIX@'
local MAX_EVENT_BYTES = @MAX_EVENT_BYTES@
local MAX_KEEP, MAX_TTL, KEY_SECONDS = 10000, 30 * 86400, 86400
local MAX_DEPTH, MAX_TEXT, MAX_FLOORS = 256, 512, 32
local DIGITS, SLOT, NEAR = 16, 6, 8 -- of an id; ids that begin with the same 6 lie in the same 10,000 s, with 8 in the same 100 s
local AFTERLIFE = 86400 + 10000 -- so that it is a day even if it was set when the slot began
local EARLIEST = 1700000000000000 -- no id is older than this software, also where a host believes in 1970

local CLOCK, HOLDER, ANNOUNCEMENTS = PREFIX .. ':clock', PREFIX .. ':holder', PREFIX .. ':'
local LOG, LAST, KEY = PREFIX .. ':log:{', PREFIX .. ':last:{', PREFIX .. ':key:{'
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

-- A number that begins or ends with its point. (Each point is looked at, rather than each byte tried with a pattern.)
local function has_bare_point(json)
  local at = json:find('.', 1, true)
  while at do
    local left, _, right = json:byte(at - 1, at + 1)
    if left == 45 or not right or (left >= 48 and left <= 57 and (right < 48 or right > 57)) then return true end
    at = json:find('.', at + 1, true)
  end
  return false
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

local own -- decode, with settings of our own: those of cjson are shared by all scripts. While a library is loaded there is no cjson

local function decoder()
  local json = cjson.new()
  json.decode_invalid_numbers(false)
  json.decode_max_depth(MAX_DEPTH)
  own = json.decode
  return own
end

-- Decode, or refuse with the reason.
local function decode(json)
  if #json > MAX_EVENT_BYTES then
    refuse('the event has ' .. #json .. ' bytes of JSON, at most ' .. MAX_EVENT_BYTES .. ' are allowed')
  end
  local printable = json:find('^[\32-\126]*$') -- anchored it is one run, not an attempt at each byte: 0.7 us for 190 bytes, not 2.5
  if not printable and json:find('[\128-\255]') and not is_utf8(json) then refuse('the event is not UTF-8') end
  local ok, value = pcall(own or decoder(), json)
  if not ok then refuse('the event is not JSON: ' .. show(json) .. ': ' .. tostring(value):gsub('[^\32-\126]', '?')) end
  if not is_strict(json, printable) then refuse('the event is not JSON: ' .. show(json)) end
  return value
end

-- Whether the value is an event (rather than the data of one), and its last. Refuses an event with a wrong type or final.
local function is_final(value)
  if type(value) ~= 'table' or type(value.type) ~= 'string' then return false end
  for name in next, value do
    if name ~= 'type' and name ~= 'data' and name ~= 'final' then return false end
  end
  if #value.type > 64 or not value.type:find('^%w[%w_.-]*$') then
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

local PLAIN, OWN_TTL = { [false] = '0', [true] = '1' }, { [false] = '2', [true] = '3' } -- the digit behind an id, by whether it is final
local DEFAULTS = { KEEP = 100, TTL = '86400' } -- a text, as Redis would make one of a number

local function options(args)
  if #args == 1 then return DEFAULTS end
  local chosen = { KEEP = DEFAULTS.KEEP, TTL = DEFAULTS.TTL }
  for i = 2, #args, 2 do
    local name, value = args[i]:upper(), args[i + 1]
    if not value then refuse('option ' .. show(args[i]) .. ' has no value') end
    if name == 'KEEP' then
      value = whole('KEEP', value, MAX_KEEP)
    elseif name == 'TTL' then
      whole('TTL', value, MAX_TTL)
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
  if #channel > 128 or not channel:find('^%w[%w_.:@-]*$') then
    refuse('channel ' .. show(channel) .. ': only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit')
  end
end

-- Who holds the data: the process, and the history it writes, which a promotion renames.
local function identity()
  local replication = redis.call('INFO', 'replication')
  local history = replication:match('master_replid:(%x+)')
  return redis.call('INFO', 'server'):match('run_id:(%x+)') .. '-' .. history, replication:match('second_repl_offset:(%-?%d+)') ~= '-1'
end

-- Can this holder have lost what the one before it acknowledged? Not a restart with an append-only file. A replica that was
-- promoted may have lagged; without the file all that came after the last snapshot is gone. Nor is it known if nobody's name
-- is left.
local function may_have_lost(before, now, promoted)
  if before:sub(1, 40) == now:sub(1, 40) then return promoted end
  return promoted or before == '' or redis.call('INFO', 'persistence'):match('aof_enabled:(%d)') ~= '1'
end

-- All of them are kept, for each is the place of a loss in the logs that go across it.
local function with_floor(floors, id)
  local kept = {}
  for floor in floors:gmatch('%d+') do kept[#kept + 1] = floor end
  kept[#kept + 1] = decimal(id)
  return table.concat(kept, ' ', math.max(1, #kept - MAX_FLOORS + 1))
end

-- The newest id of all, from the data, and who holds it. Where the data is new, gone, or perhaps older than what clients have seen, and
-- where somebody has heard of a newer id, a floor is raised: who stands below it is told of a gap. Where there was another master it is
-- announced too, for those who keep up: their connections may have outlived that. What somebody has heard from another master lies
-- above the floor that this one raised when it was promoted only if both were masters at once, and then it is not in the data.
-- Who is only looking writes nothing, and gets nothing where something would have to be written.
local function open(time, heard, from, looking)
  local known = redis.call('MGET', CLOCK, HOLDER)
  local last = tonumber((known[1] or ''):match('^%d+$')) or 0
  if last >= 10 ^ DIGITS then last = 0 end -- a stranger's, as all that is no number
  local before, floors = (known[2] or ''):match('^(%x+%-%x+) ([%d ]*)$')
  before, floors = before or '', floors or ''
  local holder, promoted = identity()
  local lost = before ~= holder and may_have_lost(before, holder, promoted)
  local both = from and from ~= holder and promoted and heard > (tonumber(floors:match('%d+$')) or 0)
  local new = last < EARLIEST or lost or both or heard > last
  if not new and before == holder then return last, holder end
  if looking then return end
  if new then
    last = math.max(time, last + 1, heard + 1, EARLIEST)
    floors = with_floor(floors, last)
    redis.call('SET', CLOCK, decimal(last))
    if both or (lost and before ~= '') then
      redis.pcall('PUBLISH', ANNOUNCEMENTS .. '!floor', decimal(last)) -- a publisher's rights may not reach there
    end
  end
  redis.call('SET', HOLDER, holder .. ' ' .. floors)
  return last, holder
end

local newest, asked -- where this library left the clock, and the second in which it opened it; a script remembers neither

-- The next id. Two events in one microsecond, or a clock set back: still unique, still rising. A clock that stands where this
-- library left it belongs to data that nobody else has written to. Any other is opened, and so is every clock once in a second:
-- a server that is demoted and promoted again may come back to where it stood, without what was written in between elsewhere.
-- It is opened before the event is recorded, so that the floor lies exactly between what an earlier holder of the data
-- acknowledged and what this one does.
local function next_id(call)
  local time = call('TIME')
  local second, micro = time[1], time[2]
  if #micro < 6 then micro = ('00000' .. micro):sub(-6) end
  if second == asked then
    local id = second .. micro
    if id <= newest then id = decimal(newest + 1) end
    local was = call('GETSET', CLOCK, id)
    if was == newest then
      newest = id
      return id
    end
    asked = false
    if was then redis.call('SET', CLOCK, was) else redis.call('DEL', CLOCK) end
  end
  local time = second * 1000000 + micro
  local id = decimal(math.max(time, (open(time, 0)) + 1))
  redis.call('SET', CLOCK, id)
  newest, asked = id, #second == 10 and second -- else texts would not compare as numbers do
  return id
end

-- id, predecessor and label of a log entry; nil for what somebody else put there.
local function parse(entry)
  local id, before, label = (entry or ''):match('^(%d+) (%d+) ?([^\n]*)\n')
  if not id or #id ~= DIGITS or #before > DIGITS then return end
  return id, before == '0' and before or id:sub(1, -1 - #before) .. before, label
end

-- An id that precedes another one, as it stands in an entry: 8 to 16 digits.
local function shorten(before, id)
  if before:sub(1, NEAR) == id:sub(1, NEAR) then return before:sub(NEAR + 1) end
  return before:sub(1, SLOT) == id:sub(1, SLOT) and before:sub(SLOT + 1) or before
end

-- The log's key is a stranger's: the newest id was not recorded, and must not stand as the channel's.
local function put_back(key, was, problem)
  if was then redis.call('SET', key, was, 'KEEPTTL') else redis.call('DEL', key) end
  error(problem, 0)
end

local function publish(channel, args)
  local call = redis.call -- looked up each time it would be 3 % of the whole
  local json = args[1]
  if not json then refuse('the event is missing') end
  check_channel(channel)
  local chosen = options(args)
  local final = is_final(decode(json))
  local key = chosen.KEY and KEY .. channel .. '}:' .. redis.sha1hex(chosen.KEY)
  local known = key and call('GET', key)
  if known then return known end

  local log, last_key = LOG .. channel .. '}', LAST .. channel .. '}'
  local tail = chosen.COLLAPSE and call('LINDEX', log, -1)
  local id = next_id(call)
  local digit = (chosen.TTL == DEFAULTS.TTL and PLAIN or OWN_TTL)[final]
  local was = call('SET', last_key, id .. digit, 'KEEPTTL', 'GET')
  local last = was and #was == DIGITS + 1 and tonumber(was) and was -- else it is a stranger's
  if not last and not tail then tail = redis.pcall('LINDEX', log, -1) end
  if type(tail) == 'table' then put_back(last_key, was, tail) end
  local newest_id, newest_before, newest_label
  if tail then newest_id, newest_before, newest_label = parse(tail) end
  if newest_id and newest_id >= id then newest_id, newest_label = nil end -- a stranger's, too
  local before = last and last:sub(1, -2) or newest_id or '0'
  local length = 0

  if not chosen.COLLAPSE then
    length = redis.pcall('RPUSH', log, id .. ' ' .. shorten(before, id) .. '\n' .. json)
  else
    local label = chosen.COLLAPSE:gsub('[^%w_.:@-]', function(c) return string.format('%%%02x', c:byte()) end)
    if newest_label == label then
      call('LSET', log, -1, id .. ' ' .. shorten(newest_before, id) .. ' ' .. label .. '\n' .. json)
    else
      length = call('RPUSH', log, id .. ' ' .. shorten(before, id) .. ' ' .. label .. '\n' .. json)
    end
  end
  if type(length) == 'table' then put_back(last_key, was, length) end
  if length > chosen.KEEP then call('LTRIM', log, -chosen.KEEP, -1) end
  call('EXPIRE', log, chosen.TTL)
  if not last or digit > '1' or last:sub(-1) > '1' or last:sub(1, SLOT) ~= id:sub(1, SLOT) then
    call('EXPIRE', last_key, chosen.TTL + AFTERLIFE) -- else it expires late enough as it is
  end
  if key then call('SET', key, id, 'EX', KEY_SECONDS) end
  call('PUBLISH', ANNOUNCEMENTS .. channel, id .. ' ' .. before .. '\n' .. json)
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
-- is above all that the server knows of is gone from it, and others may be. It says from whom it heard, and is told who this one is.
local function greet(heard, from, looking)
  local time = redis.call('TIME')
  time = time[1] * 1000000 + time[2]
  local _, holder = open(time, math.min(tonumber(heard) or 0, time + 86400 * 1000000), from ~= '' and from, looking)
  return holder
end

-- The same where nothing is to be written down, else nothing: also from a server that takes no writes, as its memory or its disk is
-- full or its replicas are gone, who was connected reads on.
local function meet(heard, from) return greet(heard, from, true) end
