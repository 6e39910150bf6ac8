-- Record an event and announce it, in one atomic step.
--
--   publish(channel, {json [, 'KEY', key] [, 'KEEP', events] [, 'TTL', seconds] [, 'COLLAPSE', label]})  ->  id
--
-- It runs as the Redis function notify_publish, or as a script on servers without functions. The keys that it keeps:
--
--   notify:log:{channel}        list, oldest first, of "<id> <before>\n<json>" or "<id> <before> <label>\n<json>". <before> is the
--                               id of the event that preceded this one in the log, so that a reader sees where the log was cut; 0
--                               if there was none. Leading digits that it shares with <id> may be left out.
--   notify:last:{channel}       the id of the newest event and a digit: 1 if it was final, plus 2 if it had a TTL of its own. Kept
--                               for a day longer than the log, so that an expired or evicted log can be told from a channel that
--                               never had one. Only digits, because Redis stores a number in 32 bytes less than a text.
--   notify:key:{channel}:<sha>  the id of the event published with that idempotency key, for 24 h.
--   notify:clock                the newest id of all channels.
--   notify:holder               the server that holds the data (its run id and replication id), and then the floors: ids at which
--                               data may have been lost, oldest first.
--
-- An id is the host's time in microseconds, or one more than the clock if that is higher (next_id). Where events may have been lost, the
-- clock first moves up to a floor, which lies between what may be gone and what follows (open_clock). With short ids:
--   A is empty; publish at 20    floor 20, id 21    clock 21, holder "A 20"       log 21 (after 0)
--   publish at 30                id 30              clock 30, holder "A 20"       log 21, 30 (after 21)
--   A acknowledges 40 and dies before its replica B has it; B is promoted
--   publish at 50, on B          floor 50, id 51    clock 51, holder "B 20 50"    log 21, 30, 51 (after 30)
-- 51 comes after 30 there, so only the floor tells of the loss: every reader below it gets a gap before 51.
--
-- Everything that can be is checked before the first write, and what is refused after it is undone. Redis refuses the whole script when
-- its memory is full or it is a read-only replica. So an event is never half recorded, and nothing is announced that was not stored.
--
-- As Lua wants it, each function stands below those that it calls. To read from the top down, begin with publish, near the end.

local PREFIX = '@PREFIX@'
local MAX_EVENT_BYTES = @MAX_EVENT_BYTES@
local MAX_KEEP, MAX_TTL, KEY_SECONDS = 10000, 30 * 86400, 86400
local MAX_DEPTH, MAX_TEXT, MAX_FLOORS = 256, 512, 32
-- Digits of an id: all of them, those that are the same for 10,000 s, and those that are the same for 100 s.
local DIGITS, SLOT, NEAR = 16, 6, 8
local AFTERLIFE = 86400 + 10000 -- for which notify:last outlives the log: a day, and the 10,000 s during which its expiry is not renewed
local EARLIEST = 1700000000000000 -- no id is smaller, even on a host whose clock is set to 1970
local AHEAD = 86400 * 1000000 -- what is heard may be so far ahead of this host's clock, which may differ from the one that gave the id

local CLOCK, HOLDER, ANNOUNCEMENTS = PREFIX .. ':clock', PREFIX .. ':holder', PREFIX .. ':'
local LOG, LAST, KEY = PREFIX .. ':log:{', PREFIX .. ':last:{', PREFIX .. ':key:{'
local function decimal(number) return string.format('%.0f', number) end

---- What the caller may send

-- A value as text for an error message: printable, on one line, and not long.
local function show(text)
  text = text:gsub('[^\32-\126]', '?')
  if #text > 80 then text = text:sub(1, 77) .. '...' end
  return "'" .. text .. "'"
end

-- A mistake of the caller's has an error code of its own, so that it differs from a server that cannot write.
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

-- Whether a number begins or ends with its decimal point. Searching for points is faster than trying a pattern at each byte.
local function has_bare_point(json)
  local at = json:find('.', 1, true)
  while at do
    local left, _, right = json:byte(at - 1, at + 1)
    if left == 45 or not right or (left >= 48 and left <= 57 and (right < 48 or right > 57)) then return true end
    at = json:find('.', at + 1, true)
  end
  return false
end

-- cjson accepts what RFC 8259 forbids: anything after a NUL, control characters inside a string, and bare decimal points.
local function is_strict(json, printable)
  if not printable and json:find('%z') then return false end
  if (printable or not json:find('[\1-\31]')) and not has_bare_point(json) then return true end
  local bare = json:gsub('\\.', '')
  for text in bare:gmatch('"([^"]*)"') do
    if text:find('[\1-\31]') then return false end
  end
  return not has_bare_point((bare:gsub('"[^"]*"', '""')))
end

-- decode() of a cjson instance of our own, because the settings of the global one are shared by all scripts. Made on first use: there
-- is no cjson yet while a library is being loaded.
local own

local function decoder()
  local json = cjson.new()
  json.decode_invalid_numbers(false)
  json.decode_max_depth(MAX_DEPTH)
  own = json.decode
  return own
end

-- Decode JSON, or refuse it with the reason.
local function decode(json)
  if #json > MAX_EVENT_BYTES then
    refuse('the event has ' .. #json .. ' bytes of JSON, at most ' .. MAX_EVENT_BYTES .. ' are allowed')
  end
  local printable = json:find('^[\32-\126]*$') -- anchored, so that it is not tried again at each byte: 0.7 instead of 2.5 us for 190 bytes
  if not printable and json:find('[\128-\255]') and not is_utf8(json) then refuse('the event is not UTF-8') end
  local ok, value = pcall(own or decoder(), json)
  if not ok then refuse('the event is not JSON: ' .. show(json) .. ': ' .. tostring(value):gsub('[^\32-\126]', '?')) end
  if not is_strict(json, printable) then refuse('the event is not JSON: ' .. show(json)) end
  return value
end

-- Whether the value is an event (and not mere data) that is final. Refuses an event with a wrong type or final.
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
  local number = text:match('^%d+$') and tonumber(text)
  if not number or number < 1 or number > most then
    refuse(name .. ' ' .. show(text) .. ': a whole number from 1 to ' .. most .. ' is expected')
  end
  return number
end

-- The digit after the id in notify:last, by whether the event is final.
local PLAIN, OWN_TTL = { [false] = '0', [true] = '1' }, { [false] = '2', [true] = '3' }
local DEFAULTS = { KEEP = 100, TTL = '86400' } -- TTL as text, which Redis would make of a number at each call

local function options(args)
  if #args == 1 then return DEFAULTS end
  local chosen = { KEEP = DEFAULTS.KEEP, TTL = DEFAULTS.TTL }
  for i = 2, #args, 2 do
    local name, value = args[i]:upper(), args[i + 1]
    if not value then refuse('option ' .. show(args[i]) .. ' has no value') end
    if name == 'KEEP' then
      value = whole('KEEP', value, MAX_KEEP)
    elseif name == 'TTL' then
      value = decimal(whole('TTL', value, MAX_TTL)) -- EXPIRE takes no leading zeros, and would fail when the event is announced
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
  if not channel then refuse('the channel is missing: FCALL ' .. PREFIX .. '_publish 1 <channel> <json> is expected') end
  if #channel > 128 or not channel:find('^%w[%w_.:@-]*$') then
    refuse('channel ' .. show(channel) .. ': only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit')
  end
end

---- The clock, the holder and the floors

-- Who holds the data: the server process and its replication history, which gets a new id when a replica is promoted. And whether this
-- server was promoted.
local function identity()
  local replication = redis.call('INFO', 'replication')
  local history = replication:match('master_replid:(%x+)')
  return redis.call('INFO', 'server'):match('run_id:(%x+)') .. '-' .. history, replication:match('second_repl_offset:(%-?%d+)') ~= '-1'
end

-- Whether this holder may have lost events that the one before it acknowledged. A server that restarts with an append-only file has
-- not. A promoted replica may have lagged behind its master; without an append-only file all that came after the last snapshot is
-- gone; and if the previous holder is not known, neither is what was lost.
local function may_have_lost(before, now, promoted)
  if before:sub(1, 40) == now:sub(1, 40) then return promoted end
  return promoted or before == '' or redis.call('INFO', 'persistence'):match('aof_enabled:(%d)') ~= '1'
end

-- The floors with one more. Each marks the place of a possible loss in the logs that extend across it, so all are kept, up to MAX_FLOORS.
local function with_floor(floors, id)
  local kept = {}
  for floor in floors:gmatch('%d+') do kept[#kept + 1] = floor end
  kept[#kept + 1] = decimal(id)
  return table.concat(kept, ' ', math.max(1, #kept - MAX_FLOORS + 1))
end

-- Read the clock and make it safe to go on from: returns the newest id, and who holds the data.
--
--   heard      the newest id that the gateway has heard of
--   from       the holder that it heard it from, or false
--   read_only  write nothing; return nothing if something would have to be written
--
-- A floor is raised, so that readers below it are told of a gap, if one of these is true:
--
--   empty        the data is new, or all of it is gone
--   lost         another holder wrote last, and may have acknowledged what is not here
--   two_masters  the gateway has heard an id from another master that lies above the floor raised at this one's promotion: both were
--                masters at once, so that event is not here
--   outdated     the gateway has heard of a newer id than any here
--
-- After a change of master the floor is also announced, because clients may have kept up on connections that outlived the change.
local function open_clock(time, heard, from, read_only)
  local known = redis.call('MGET', CLOCK, HOLDER)
  local last = tonumber((known[1] or ''):match('^%d+$')) or 0
  if last >= 10 ^ DIGITS then last = 0 end -- not an id, so it was not written by this script
  if heard > math.max(time, last) + AHEAD then heard = 0 end -- no server with this data can have announced it
  local before, floors = (known[2] or ''):match('^(%x+%-%x+) ([%d ]*)$')
  before, floors = before or '', floors or ''
  local holder, promoted = identity()
  local empty, outdated = last < EARLIEST, heard > last
  local lost = before ~= holder and may_have_lost(before, holder, promoted)
  local two_masters = from and from ~= holder and promoted and heard > (tonumber(floors:match('%d+$')) or 0)
  local raise = empty or lost or two_masters or outdated
  if not raise and before == holder then return last, holder end
  if read_only then return end
  if raise then
    last = math.max(time, last + 1, heard + 1, EARLIEST)
    floors = with_floor(floors, last)
    redis.call('SET', CLOCK, decimal(last))
    if two_masters or (lost and before ~= '') then
      redis.pcall('PUBLISH', ANNOUNCEMENTS .. '!floor', decimal(last)) -- fails if the publisher has no right to this pub/sub channel
    end
  end
  redis.call('SET', HOLDER, holder .. ' ' .. floors)
  return last, holder
end

-- Where this library left the clock, and the second in which it last opened it. A script, unlike a function, remembers neither.
local newest, opened

-- The next id, unique and rising even if two events share a microsecond or the host's clock is set back; and the second of that clock.
--
-- As long as the clock stands where this library left it, nobody else has written to the data. Otherwise it is opened, and so it is
-- at least once a second: a server that is demoted and promoted again may have the same clock as before, but not what another master
-- recorded in between. It is opened before the event is recorded, so that the floor lies below the id of that.
local function next_id(call)
  local now = call('TIME')
  local second, micro = now[1], now[2]
  if #micro < 6 then micro = ('00000' .. micro):sub(-6) end
  if second == opened then
    local id = second .. micro
    if id <= newest then id = decimal(newest + 1) end
    local was = call('GETSET', CLOCK, id)
    if was == newest then
      newest = id
      return id, second
    end
    -- Somebody else has written: the clock is put back as it was, and opened.
    if was then redis.call('SET', CLOCK, was) else redis.call('DEL', CLOCK) end
  end
  local time = second * 1000000 + micro
  local id = decimal(math.max(time, (open_clock(time, 0)) + 1))
  redis.call('SET', CLOCK, id)
  newest, opened = id, #second == 10 and second -- ids are compared as texts, which takes the same number of digits
  return id, second
end

---- The log

-- The id, predecessor and label of a log entry; nil if it was not written by this script.
local function parse(entry)
  local id, before, label = (entry or ''):match('^(%d+) (%d+) ?([^\n]*)\n')
  if not id or #id ~= DIGITS or #before > DIGITS then return end
  return id, before == '0' and before or id:sub(1, -1 - #before) .. before, label
end

-- The id that precedes another one, as it is written in an entry: its last 8 or 10 digits if the others are the same, else all 16.
local function shorten(before, id)
  if before:sub(1, NEAR) == id:sub(1, NEAR) then return before:sub(NEAR + 1) end
  return before:sub(1, SLOT) == id:sub(1, SLOT) and before:sub(SLOT + 1) or before
end

-- Add an event to the end of the log, or put it in the place of the last entry if that has the same label. Returns how long the log is
-- now, 0 if it is as long as before, or an error if its key holds something else than a list.
local function append(log, id, before, json, label, tail_before, tail_label)
  if not label then return redis.pcall('RPUSH', log, id .. ' ' .. shorten(before, id) .. '\n' .. json) end
  label = label:gsub('[^%w_.:@-]', function(c) return string.format('%%%02x', c:byte()) end)
  if tail_label ~= label then return redis.pcall('RPUSH', log, id .. ' ' .. shorten(before, id) .. ' ' .. label .. '\n' .. json) end
  redis.call('LSET', log, -1, id .. ' ' .. shorten(tail_before, id) .. ' ' .. label .. '\n' .. json)
  return 0
end

-- Undo the change to notify:last and fail.
local function put_back(key, was, problem)
  if was then redis.call('SET', key, was, 'KEEPTTL') else redis.call('DEL', key) end
  error(problem, 0)
end

local function publish(channel, args, second_channel)
  local call = redis.call -- a local, because looking it up each time takes 3 % of the whole
  local json = args[1]
  if not json then refuse('the event is missing') end
  check_channel(channel)
  if second_channel then
    refuse('channel ' .. show(second_channel) .. ': one channel is expected, in FCALL ' .. PREFIX .. '_publish 1 <channel> <json>')
  end
  local chosen = options(args)
  local final = is_final(decode(json))
  local key = chosen.KEY and KEY .. channel .. '}:' .. redis.sha1hex(chosen.KEY)
  local known = key and call('GET', key)
  if known then return known end

  local log, last_key = LOG .. channel .. '}', LAST .. channel .. '}'
  local tail = chosen.COLLAPSE and call('LINDEX', log, -1)
  local id, second = next_id(call)
  local digit = (chosen.TTL == DEFAULTS.TTL and PLAIN or OWN_TTL)[final]
  local was = call('SET', last_key, id .. digit, 'KEEPTTL', 'GET')
  local last = was and #was == DIGITS + 1 and tonumber(was) and was -- anything else was not written by this script
  if not last and not tail then tail = redis.pcall('LINDEX', log, -1) end
  if type(tail) == 'table' then put_back(last_key, was, tail) end
  local tail_id, tail_before, tail_label
  if tail then tail_id, tail_before, tail_label = parse(tail) end
  if tail_id and tail_id >= id then tail_id, tail_label = nil end -- nor was an entry with an id above the clock
  local before = last and last:sub(1, -2) or tail_id or '0'

  local length = append(log, id, before, json, chosen.COLLAPSE, tail_before, tail_label)
  if type(length) == 'table' then put_back(last_key, was, length) end
  -- Before the log is trimmed, which could not be undone: the publisher may have no right to this pub/sub channel.
  local announced = redis.pcall('PUBLISH', ANNOUNCEMENTS .. channel, id .. ' ' .. before .. '\n' .. json)
  if type(announced) == 'table' then
    if length == 0 then call('LSET', log, -1, tail) else call('LTRIM', log, 0, -2) end
    put_back(last_key, was, announced)
  end
  if length > chosen.KEEP then call('LTRIM', log, -chosen.KEEP, -1) end
  call('EXPIRE', log, chosen.TTL)
  if not last or digit > '1' or last:sub(-1) > '1' or last:sub(1, SLOT) ~= second:sub(1, SLOT) then
    -- Else that was done less than 10,000 s ago. The clock's slot counts: that of the ids stands still while a clock set back catches up.
    call('EXPIRE', last_key, chosen.TTL + AFTERLIFE)
  end
  if key then call('SET', key, id, 'EX', KEY_SECONDS) end
  return id
end

---- For the callers

-- Run one of these functions for a caller, and return its errors in the same form on every server version. Before Redis 7 an error is
-- a text, and in the server's own errors (OOM, READONLY, NOREPLICAS) the position in the script stands before the code.
local function answer(run, ...)
  local ok, result = pcall(run, ...)
  if ok then return result end
  if type(result) == 'table' then return redis.error_reply(result.err) end
  return redis.error_reply(result:match('^%u+ .*') or result:match('^@user_script: %d+: %-(%u+ .*)') or 'ERR ' .. result)
end

-- For a gateway that connects or reconnects: from now on no id is below the newest that it has heard of, whatever this server has lost.
-- An id above all that the server knows shows that it has lost that event, and perhaps others. The gateway says which holder it
-- heard that id from, and gets the present one.
local function sync_clock(heard, from, read_only)
  local now = redis.call('TIME')
  local time = now[1] * 1000000 + now[2]
  local _, holder = open_clock(time, tonumber(heard) or 0, from ~= '' and from, read_only)
  return holder
end

-- The same without writing: returns nothing if something would have to be written. With it a gateway can go on reading from a server
-- that takes no writes, because its memory or disk is full or its replicas are gone.
local function check_clock(heard, from) return sync_clock(heard, from, true) end
