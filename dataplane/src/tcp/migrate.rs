//! A flow changes its worker: after login names the target, it belongs to the
//! worker that owns the target.
//!
//! The old worker's table keeps a slot that says where the flow went, so that
//! its frames can follow; the flow takes its buffers along, in the frame
//! memory that all workers share.

use super::flow::Flow;
use super::keyed::FourTuple;
use super::table::FlowId;
use super::{Pending, Slot, Tcp};

impl Tcp {
    /// Takes a flow out; its segments are given back by
    /// [`input`](Tcp::input) for `worker` from now on. Its `FlowId` and the
    /// events not yet taken are gone: the new owner looks at the stream.
    pub fn hand_over(&mut self, flow: FlowId, worker: u8) -> Option<Box<Flow>> {
        let (index, _) = self.flow_mut(flow)?;
        self.forget_work(index);
        self.events.remove(index);
        self.pending[index as usize] = Pending::default();
        match self.table.replace(index, Slot::Remote(worker)) {
            Some(Slot::Flow(flow)) => Some(flow),
            _ => unreachable!("looked at just before"),
        }
    }

    /// Takes a flow of another worker in; gives it back if all flows are in
    /// use or its ends are known here.
    ///
    /// # Errors
    /// The flow itself, untouched.
    pub fn adopt(&mut self, flow: Box<Flow>) -> Result<FlowId, Box<Flow>> {
        if self.flows == self.config.flows_max || self.table.find(&flow.tuple).is_some() {
            return Err(flow);
        }
        let index = self.table.insert(flow.tuple, Slot::Flow(flow));
        self.flows += 1;
        self.ready.push(index);
        self.raise(index, |pending| pending.ready = true);
        Ok(self.table.id(index))
    }

    /// The other worker has said that the flow has ended.
    pub fn forget_remote(&mut self, tuple: &FourTuple) {
        if let Some(index) = self.table.find(tuple)
            && matches!(self.table.get(index), Some(Slot::Remote(_)))
        {
            self.free(index);
        }
    }
}
