-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- Consistent hashing on a ring of crc32 points: what the controller uses of lua-resty-balancer.

local POINTS_PER_WEIGHT = 160

local Chash = {}
Chash.__index = Chash

function Chash:reinit(nodes)
  self.nodes = nodes
  self.ring = {}
  for id, weight in pairs(nodes) do
    for point = 1, POINTS_PER_WEIGHT * weight do
      table.insert(self.ring, { hash = ngx.crc32_long(id .. "#" .. point), id = id })
    end
  end
  table.sort(self.ring, function(one, other)
    if one.hash == other.hash then
      return one.id < other.id
    end
    return one.hash < other.hash
  end)
end

function Chash.new(_, nodes)
  local self = setmetatable({}, Chash)
  self:reinit(nodes)
  return self
end

-- The endpoint for a key, and its place on the ring for next().
function Chash:find(key)
  local count = #self.ring
  if count == 0 then
    return nil
  end
  local hash = ngx.crc32_long(tostring(key))
  local low, high = 1, count + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if self.ring[middle].hash < hash then
      low = middle + 1
    else
      high = middle
    end
  end
  local index = low > count and 1 or low
  return self.ring[index].id, index
end

function Chash:next(index)
  local following = index % #self.ring + 1
  return self.ring[following].id, following
end

return Chash
