-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- Smooth weighted round robin over {["address:port"] = weight}: what the controller uses of lua-resty-balancer.

local RoundRobin = {}
RoundRobin.__index = RoundRobin

function RoundRobin:reinit(nodes)
  self.nodes = nodes
  self.ids = {}
  self.credit = {}
  self.total = 0
  for id, weight in pairs(nodes) do
    if weight > 0 then
      table.insert(self.ids, id)
      -- A random start: the workers of one nginx must not all begin with the same endpoint.
      self.credit[id] = math.random(0, weight)
      self.total = self.total + weight
    end
  end
  table.sort(self.ids)
end

function RoundRobin.new(_, nodes)
  local self = setmetatable({}, RoundRobin)
  self:reinit(nodes)
  return self
end

function RoundRobin:find()
  local best
  for _, id in ipairs(self.ids) do
    self.credit[id] = self.credit[id] + self.nodes[id]
    if not best or self.credit[id] > self.credit[best] then
      best = id
    end
  end
  if best then
    self.credit[best] = self.credit[best] - self.total
  end
  return best
end

return RoundRobin
