//! Serves `api` on a bus or a peer-to-peer socket, and decides who may.
