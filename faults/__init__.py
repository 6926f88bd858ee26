"""The fault campaign: chats read by clients that are cut, while everything around them dies, and a checker of its own.

It speaks HTTP, Redis's protocol and signals, and imports nothing of the product's. How it hangs together:

    schedule, chats       what will happen: pure functions of the seed
    stack, processes,     the product's processes, each in a place from which it is killed and where it comes back, and
    proxy                 the proxies between them and their clients
    weather               carries the schedule out
    clients, reader       what a chat's clients do: post, repeat, read, cut, resume, cancel
    evidence, checker     what is known of a chat in the end, and whether it kept the promises: pure
    sweep                 what Redis and the simulator hold when all is over
    campaign, report      all of it at once, and the table at the end
    takeover, cancel      two measurements on an otherwise quiet stack
    deploy, failover,     every process replaced under load, and Redis by its replica, while a crowd of clients reads
    crowd
"""
