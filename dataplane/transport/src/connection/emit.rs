//! Where segments go.

use crate::segment::{IpEcn, Segment};
use crate::send_buffer::Pieces;

/// Takes what a connection sends.
pub trait Emit<S> {
    /// One segment, or a burst of them: with `segment_size` the payload is to be cut into
    /// parts of so many bytes, each with this header and its own number, as segmentation
    /// offload does (CWR on the first only, FIN and PSH on the last only).
    fn emit(
        &mut self,
        segment: &Segment,
        ecn: IpEcn,
        segment_size: Option<u16>,
        payload: Pieces<'_, S>,
    );
}
