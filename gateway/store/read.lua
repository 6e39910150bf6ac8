-- Read channels' logs after a cursor. Appended to publish.lua, whose definitions it uses.
--
--   reads({channel, ...}, {cursor, bytes, cursor, bytes, ...})  ->  {reply, reply, ...}; an error in the place of one that was refused
--   read(channel, cursor or 'last' or 'now', bytes)  ->  {clock, floors, last, more, entry, entry, ...}
--
-- clock   the newest id of all channels at this moment: up to it the reply is complete, unless more is set
-- floors  ids at which the server may have lost events, rising, separated by spaces: a reader below one of them may have missed some
-- last    the id of the channel's newest event and a digit, odd if that was final; '' if none is known
-- more    0 if the entries reach the end of the log. If they were cut at the given number of bytes (the first is always given):
--         "<id> <before>" of the next entry if that was looked at, otherwise 1
--
-- 'last' gives only the newest entry, 'now' none.

local PAGE, STEP = 128, 8 -- the most entries looked at for one reply, and how many of them at first
local MORE = 4 -- the place of more in a reply; the entries come after it

-- The id of an entry; nil if it was not written by publish.lua. The gateway parses entries by the same rule.
local function id_of(entry)
  return tonumber((parse(entry)))
end

-- The id and the size of the first entry from index i on that publish.lua wrote.
local function id_at(log, i, count)
  while i < count do
    local entry = redis.call('LINDEX', log, i)
    local id = id_of(entry)
    if id then return id, #entry end
    i = i + 1
  end
  return math.huge
end

-- The index of the first entry after a cursor, and its size; the count and nil if there is none.
local function place_after(log, cursor, count)
  local low, high, size = 0, count, nil
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id, bytes = id_at(log, middle, count)
    if id > cursor then high, size = middle, bytes else low = middle + 1 end
  end
  return low, size
end

-- Add the entries from this index on to the reply, up to so many bytes. first_size is the size of the first one, if it is known.
-- Little more is looked at than is given: Redis does nothing else meanwhile, and each KB takes Lua 1 to 2 us, so 128 of the largest
-- events would take 20 ms.
local function add_entries(reply, log, count, from, bytes, first_size)
  local size, stop = 0, from + PAGE
  local step = first_size and math.min(4 * STEP, math.ceil(bytes / first_size)) or STEP
  -- Go on until there is at least one valid entry, or the end of the log: otherwise the reader could not move its cursor, and would
  -- read the same part again for ever.
  while from < count and (size == 0 or (size < bytes and from < stop)) do
    for _, entry in ipairs(redis.call('LRANGE', log, from, from + step - 1)) do
      local id, before = parse(entry)
      if id and size > 0 and size + #entry > bytes then
        reply[MORE] = id .. ' ' .. before
        return
      end
      if id then size = size + #entry end
      reply[#reply + 1] = id and entry or entry:sub(1, 60) -- enough of a foreign entry to count and log it
    end
    from = from + step
    step = math.min(2 * step, PAGE)
    if size > 0 then step = math.max(1, math.min(step, stop - from, math.ceil((bytes - size) * (#reply - MORE) / size))) end
  end
  if from < count then
    -- With large events a page holds only one. Knowing the next id lets a reader of many channels deliver up to it, instead of one
    -- event for each round of reads.
    local id, before = parse(#reply == MORE + 1 and redis.call('LINDEX', log, from))
    reply[MORE] = id and id .. ' ' .. before or 1
  end
end

local function read(channel, cursor, bytes)
  check_channel(channel)
  local known = redis.call('MGET', CLOCK, HOLDER, LAST .. channel .. '}')
  local log = LOG .. channel .. '}'
  local count = redis.pcall('LLEN', log)
  -- Anything but a number was not written by publish.lua. If the floors were evicted, anything may be lost, so the clock stands for one.
  local clock = known[1] and known[1]:match('^%d+$') or '0'
  local floors = known[2] and known[2]:match(' ([%d ]*)$') or clock
  local last = known[3] and known[3]:match('^%d+$') or ''
  local reply = { clock, floors, last, 0 }
  if type(count) == 'table' then
    if not count.err:find('^WRONGTYPE') then error(count, 0) end
    -- Somebody else's key has taken the place of the log, of which nothing is left: as if it held only a foreign entry.
    reply[MORE + 1] = count.err:sub(1, 60)
    return reply
  end
  if cursor == 'now' or count == 0 or cursor == last:sub(1, -2) then return reply end
  if cursor == 'last' then
    for i = 1, math.min(count, PAGE) do
      local entry = redis.call('LINDEX', log, -i)
      if id_of(entry) then
        reply[MORE + 1] = entry
        break
      end
    end
  elseif cursor == '0' then
    add_entries(reply, log, count, 0, bytes)
  else
    local from, size = place_after(log, tonumber(cursor), count)
    add_entries(reply, log, count, from, bytes, size)
  end
  return reply
end

local function reads(channels, wanted)
  local replies = {}
  for i, channel in ipairs(channels) do
    replies[i] = answer(read, channel, wanted[2 * i - 1], tonumber(wanted[2 * i]))
  end
  return replies
end
