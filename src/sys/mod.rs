//! The kernel and systemd, one facility a file. The only folder with `unsafe`.
