//! What knows Node: the cluster channel, its listening sockets, the worker's agent.
