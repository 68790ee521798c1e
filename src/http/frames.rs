//! Counts HTTP/2 frames, and detects peers that send control frames in place of requests.
//!
//! # Design notes
//! h2 limits resets, CONTINUATION frames and the overhead of DATA frames.  It answers every PING and
//! SETTINGS and processes every PRIORITY, WINDOW_UPDATE and unknown frame for as long as a peer sends
//! them, and hyper has no setting against it.  A peer that sends nothing else keeps one core busy.  So
//! the frames are counted here, before h2 reads them.  Frame headers are enough: nothing is copied or
//! decoded.
//!
//! Control frames are paid for from a budget.  New requests, responses and time fill it, up to a bound.

use tokio::time::Instant;

/// Length of the connection preface of a client (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Length of a frame header (RFC 9113 section 4.1).
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// Control frames that a peer may send at once, and the upper bound of its budget.
const BURST: u32 = 256;
/// Control frames that a peer may send for each request, and the cost of resetting it.
const PER_REQUEST: u32 = 8;
/// Control frames that a peer may send for each DATA frame that it receives: two WINDOW_UPDATE frames.
const PER_RESPONSE_FRAME: u32 = 2;
/// Control frames that a peer may send in each second.
const PER_SECOND: u32 = 16;

/// One frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the frame headers in one direction of a connection, whatever pieces its bytes arrive in.
struct Frames {
    header: [u8; HEADER],
    filled: usize,
    /// Bytes before the next frame header.
    skip: usize,
}

impl Frames {
    fn after(preface: usize) -> Self {
        Self { header: [0; HEADER], filled: 0, skip: preface }
    }

    /// Consumes `bytes` up to the end of the next frame header; `None` if it ends outside of them.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let (head, rest) = bytes.split_at((HEADER - self.filled).min(bytes.len()));
        self.header[self.filled..self.filled + head.len()].copy_from_slice(head);
        self.filled += head.len();
        *bytes = rest;
        if self.filled < HEADER {
            return None;
        }
        self.filled = 0;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        self.skip = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        // The highest bit of the stream identifier is reserved.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(Frame { length: self.skip, kind, flags, stream })
    }

    /// True if the bytes so far end with a complete frame.
    fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.filled == 0
    }
}

/// The peer has sent more control frames than its budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood;

/// The budget of one connection.
pub(super) struct FrameBudget {
    incoming: Frames,
    outgoing: Frames,
    left: u32,
    /// Time up to which `left` has been filled.  The clock is read only when the budget is used up.
    filled_at: Instant,
    /// The highest stream that the peer has opened.
    last_stream: u32,
}

impl FrameBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            incoming: Frames::after(PREFACE),
            outgoing: Frames::after(0),
            left: BURST,
            filled_at: now,
            last_stream: 0,
        }
    }

    /// Counts the frames in received bytes.
    ///
    /// # Errors
    /// [`Flood`] if they exceed the budget.  The connection must be closed.
    pub(super) fn received(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        while let Some(frame) = self.incoming.next(&mut bytes) {
            match frame.kind {
                HEADERS if frame.stream > self.last_stream => {
                    self.last_stream = frame.stream;
                    self.earn(PER_REQUEST);
                }
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
                RST_STREAM => self.pay(PER_REQUEST + 1, &now)?,
                _ => self.pay(1, &now)?,
            }
        }
        Ok(())
    }

    /// Counts the frames in sent bytes.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.outgoing.next(&mut bytes) {
            if frame.kind == DATA {
                self.earn(PER_RESPONSE_FRAME);
            }
        }
    }

    fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(BURST);
    }

    fn pay(&mut self, frames: u32, now: impl Fn() -> Instant) -> Result<(), Flood> {
        if self.left < frames {
            let now = now();
            let elapsed = now.saturating_duration_since(self.filled_at);
            let earned = elapsed.as_millis().saturating_mul(u128::from(PER_SECOND)) / 1_000;
            let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
            if earned > 0 {
                self.filled_at = now;
                self.earn(earned);
            }
        }
        self.left = self.left.checked_sub(frames).ok_or(Flood)?;
        Ok(())
    }

    /// Returns the GOAWAY frame with ENHANCE_YOUR_CALM that ends the connection (RFC 9113 sections 6.8 and
    /// 7); `None` while a frame is partly sent, because no frame may begin there.
    pub(super) fn go_away(&self) -> Option<[u8; HEADER + 8]> {
        if !self.outgoing.is_between_frames() {
            return None;
        }
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        frame[HEADER..HEADER + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn started(now: Instant) -> FrameBudget {
        let mut budget = FrameBudget::new(now);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(budget.received(preface, || now), Ok(()));
        budget
    }

    /// Returns the number of `frame`s that a new connection accepts at one time, at most 10,000.
    fn accepted(frame: &[u8]) -> usize {
        let now = Instant::now();
        let mut budget = started(now);
        (0..10_000).take_while(|_| budget.received(frame, || now).is_ok()).count()
    }

    #[test]
    fn accepts_a_bounded_number_of_control_frames() {
        for (name, kind, stream) in [
            ("trailers", HEADERS, 0),
            ("PRIORITY", 2, 1),
            ("SETTINGS", SETTINGS, 0),
            ("PING", PING, 0),
            ("GOAWAY", 7, 0),
            ("WINDOW_UPDATE", 8, 0),
            ("CONTINUATION", 9, 1),
            ("PRIORITY_UPDATE", 16, 0),
            ("unknown", 0xee, 3),
            ("empty DATA", DATA, 1),
        ] {
            assert_eq!(accepted(&frame(kind, 0, stream, b"")), BURST as usize, "{name}");
        }
        assert_eq!(
            accepted(&frame(RST_STREAM, 0, 1, &[0; 4])),
            (BURST / (PER_REQUEST + 1)) as usize
        );
        assert_eq!(accepted(&frame(DATA, 0, 1, b"x")), 10_000);
        assert_eq!(accepted(&frame(DATA, END_STREAM, 1, b"")), 10_000);
    }

    /// Requests pay for the control frames of ordinary clients, but not for resetting each request.
    #[test]
    fn requests_and_responses_fill_the_budget() {
        let now = Instant::now();
        let request = |n: u32| frame(HEADERS, 5, 2 * n + 1, b"x");
        let mut budget = started(now);
        for n in 0..10_000 {
            let mut bytes = request(n);
            (0..PER_REQUEST).for_each(|_| bytes.extend(frame(PING, 0, 0, &[0; 8])));
            assert_eq!(budget.received(&bytes, || now), Ok(()), "request {n}");
        }
        let mut budget = started(now);
        let reset = |n| [request(n), frame(RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat();
        let resets = (0..10_000).take_while(|n| budget.received(&reset(*n), || now).is_ok());
        assert_eq!(resets.count(), BURST as usize - PER_REQUEST as usize);
        let mut budget = started(now);
        for _ in 0..10_000 {
            budget.sent(&frame(DATA, 0, 1, &[0; 100]));
            let updates = [frame(8, 0, 0, &[0; 4]), frame(8, 0, 1, &[0; 4])].concat();
            assert_eq!(budget.received(&updates, || now), Ok(()));
        }
    }

    #[test]
    fn time_fills_the_budget_up_to_the_burst() {
        let start = Instant::now();
        let mut budget = started(start);
        let ping = frame(PING, 0, 0, &[0; 8]);
        let mut send = |count: u32, at: Instant| {
            (0..count).filter(|_| budget.received(&ping, || at).is_ok()).count()
        };
        assert_eq!(send(1_000, start), 256);
        assert_eq!(send(1_000, start + Duration::from_secs(1)), 16);
        assert_eq!(send(1_000, start + Duration::from_secs(3_600)), 256);
        // A client that sends ten frames a second is never closed.
        let start = start + Duration::from_secs(7_200);
        for n in 0..10_000 {
            assert_eq!(send(1, start + Duration::from_millis(n * 100)), 1, "frame {n}");
        }
    }

    #[test]
    fn go_away_names_the_last_stream_and_begins_between_frames() {
        let now = Instant::now();
        let mut budget = started(now);
        assert_eq!(budget.received(&frame(HEADERS, 5, 7, b"x"), || now), Ok(()));
        let expected = frame(7, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(budget.go_away().map(Vec::from), Some(expected));
        budget.sent(&frame(DATA, 0, 1, b"abc")[..10]);
        assert_eq!(budget.go_away(), None);
        budget.sent(b"bc");
        assert!(budget.go_away().is_some());
    }

    proptest! {
        /// The pieces that bytes arrive in make no difference.
        #[test]
        fn finds_the_same_frames_in_any_pieces(
            frames in prop::collection::vec(
                (0..20u8, any::<u8>(), 0..0x7fff_ffffu32, prop::collection::vec(any::<u8>(), 0..40)),
                0..20,
            ),
            cuts in prop::collection::vec(1..30usize, 1..20),
        ) {
            let mut bytes = vec![0xff; PREFACE];
            let mut expected = Vec::new();
            for (kind, flags, stream, payload) in &frames {
                bytes.extend(frame(*kind, *flags, *stream, payload));
                let length = payload.len();
                expected.push(Frame { length, kind: *kind, flags: *flags, stream: *stream });
            }
            let mut found = Vec::new();
            let mut reader = Frames::after(PREFACE);
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut piece, after) = rest.split_at((*cut).min(rest.len()));
                while let Some(frame) = reader.next(&mut piece) {
                    found.push(frame);
                }
                rest = after;
            }
            prop_assert_eq!(found, expected);
            prop_assert!(reader.is_between_frames());
        }
    }
}
