-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- A lock in a shared dictionary that never waits: what balancer/ewma.lua (timeout = 0) uses of lua-resty-lock.

local DEFAULT_SECONDS = 30

local Lock = {}
Lock.__index = Lock

function Lock.new(_, dictionary_name, options)
  local dictionary = ngx.shared[dictionary_name]
  if not dictionary then
    return nil, "dictionary not found"
  end
  local seconds = options and options.exptime or DEFAULT_SECONDS
  return setmetatable({ dictionary = dictionary, seconds = seconds }, Lock)
end

function Lock:lock(key)
  if self.key then
    return nil, "locked"
  end
  local added, problem = self.dictionary:add(key, true, self.seconds)
  if not added then
    return nil, problem == "exists" and "timeout" or problem
  end
  self.key = key
  return 0
end

function Lock:unlock()
  if not self.key then
    return nil, "unlocked"
  end
  self.dictionary:delete(self.key)
  self.key = nil
  return 1
end

return Lock
