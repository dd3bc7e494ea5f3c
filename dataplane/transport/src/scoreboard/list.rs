//! A list through the ring's segments, linked by their ids.

use super::{Scoreboard, SentId};

#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub head: SentId,
    pub tail: SentId,
}

/// Which of the board's lists.
type Which = fn(&mut Scoreboard) -> &mut List;

impl List {
    pub const EMPTY: Self = Self {
        head: SentId::NONE,
        tail: SentId::NONE,
    };

    /// Puts `id` behind `after`, or in front if that is none.
    pub fn insert_after(board: &mut Scoreboard, which: Which, after: SentId, id: SentId) {
        let next = if after == SentId::NONE {
            std::mem::replace(&mut which(board).head, id)
        } else {
            std::mem::replace(&mut board[after].next, id)
        };
        if next == SentId::NONE {
            which(board).tail = id;
        } else {
            board[next].previous = id;
        }
        let sent = &mut board[id];
        sent.previous = after;
        sent.next = next;
    }

    pub fn remove(board: &mut Scoreboard, which: Which, id: SentId) {
        let (previous, next) = (board[id].previous, board[id].next);
        if previous == SentId::NONE {
            which(board).head = next;
        } else {
            board[previous].next = next;
        }
        if next == SentId::NONE {
            which(board).tail = previous;
        } else {
            board[next].previous = previous;
        }
    }
}
