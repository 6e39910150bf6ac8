-- Read channels' logs after a cursor. Comes behind publish.lua, whose names it uses.
--
--   reads({channel, ...}, {cursor, bytes, cursor, bytes, ...})  ->  {answer, answer, ...}, a refusal as an error in its place
--   read(channel, cursor or 'last' or 'now', bytes)  ->  {clock, floors, last, more, entry, entry, ...}
--
-- clock   newest id of all channels at this moment: up to it the answer is complete, unless more is set
-- floors  whoever stands below one of them may have lost events with the server's data; rising, a space between two
-- last    id of the channel's newest event and a digit, odd if that was final; '' if none is known
-- more    set if the entries were cut at the given number of bytes (the first is always there): the id of the next one and the id before
--         that, a space between, where it was looked at; else 1
--
-- 'last' gives the newest entry only, 'now' none.

local PAGE, STEP = 128, 8 -- entries looked at for one answer; in one go, at first

-- The id of an entry; nil for what a stranger put there. The gateway takes entries apart by the same rule.
local function id_of(entry)
  return tonumber((parse(entry)))
end

-- The id of the first entry at or behind place i that is ours, and its size: strangers' entries are stepped over.
local function id_at(log, i, count)
  while i < count do
    local entry = redis.call('LINDEX', log, i)
    local id = id_of(entry)
    if id then return id, #entry end
    i = i + 1
  end
  return math.huge
end

-- The place of the first entry behind a cursor, and its size if there is one.
local function place_after(log, cursor, count)
  local low, high, size = 0, count, nil
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id, bytes = id_at(log, middle, count)
    if id > cursor then high, size = middle, bytes else low = middle + 1 end
  end
  return low, size
end

-- Give the entries from this place on, up to so many bytes; like is the size of one. Not much more is looked at than is given: Redis does
-- nothing else meanwhile, and each KB takes Lua 1 to 2 us, so 128 of the largest events would take 20 ms.
local function give(answer, log, count, from, bytes, like)
  local size, stop, step = 0, from + PAGE, like and math.min(4 * STEP, math.ceil(bytes / like)) or STEP
  -- Until there is one of ours, or the end: else the reader could not move its cursor, and would read this again for ever.
  while from < count and (size == 0 or (size < bytes and from < stop)) do
    for _, entry in ipairs(redis.call('LRANGE', log, from, from + step - 1)) do
      local id, before = parse(entry)
      if id and size > 0 and size + #entry > bytes then
        answer[4] = id .. ' ' .. before
        return
      end
      if id then size = size + #entry end
      answer[#answer + 1] = id and entry or entry:sub(1, 60) -- enough to count and log it
    end
    from = from + step
    step = math.min(2 * step, PAGE)
    if size > 0 then step = math.max(1, math.min(step, stop - from, math.ceil((bytes - size) * (#answer - 4) / size))) end
  end
  if from < count then
    -- Many channels of large events, one for each page, go by what comes next: each page would bring them one event further.
    local id, before = parse(#answer == 5 and redis.call('LINDEX', log, from))
    answer[4] = id and id .. ' ' .. before or 1
  end
end

local function read(channel, cursor, bytes)
  check_channel(channel)
  local known = redis.call('MGET', CLOCK, HOLDER, LAST .. channel .. '}')
  local log = LOG .. channel .. '}'
  local count = redis.call('LLEN', log)
  -- What is no number there is a stranger's. Who knows of no floors, for they were evicted, may have lost anything.
  local clock, newest = known[1] and known[1]:match('^%d+$') or '0', known[3] and known[3]:match('^%d+$') or ''
  local answer = { clock, known[2] and known[2]:match(' ([%d ]*)$') or clock, newest, 0 }
  if cursor == 'now' or count == 0 or cursor == answer[3]:sub(1, -2) then return answer end
  if cursor == 'last' then
    for i = 1, math.min(count, PAGE) do
      local entry = redis.call('LINDEX', log, -i)
      if id_of(entry) then
        answer[5] = entry
        break
      end
    end
  elseif cursor == '0' then
    give(answer, log, count, 0, bytes)
  else
    local from, size = place_after(log, tonumber(cursor), count)
    give(answer, log, count, from, bytes, size)
  end
  return answer
end

local function reads(channels, wanted)
  local answers = {}
  for i, channel in ipairs(channels) do
    answers[i] = answer(read, channel, wanted[2 * i - 1], tonumber(wanted[2 * i]))
  end
  return answers
end
