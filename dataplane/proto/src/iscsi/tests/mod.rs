//! Both sides against each other and against bytes no peer should send.

mod chap;
mod disk;
mod failed_tasks;
mod hostile;
mod login;
mod pair;
mod task_management;
mod transfer;
mod wire;
