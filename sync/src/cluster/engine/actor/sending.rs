//! Frames on their way to other replicas, and what they have read of one's own inbox.

use super::super::inbox::LetGo;
use super::super::lanes::ALL;
use super::super::outcome::{Answer, Outcome};
use super::Actor;

use crate::cluster::{ReplicaId, Request};

impl Actor {
    pub(super) fn send_frames(&mut self) {
        if self.member.is_joining() {
            return;
        }
        let outgoing = self.shared.lanes.lock().take(self.replica);
        if outgoing.is_empty() {
            return;
        }
        let counters = &self.shared.counters;
        let mut frames = Vec::with_capacity(outgoing.len());
        let mut requests = Vec::with_capacity(outgoing.len());
        for out in outgoing {
            counters.frames_out.add(1);
            counters.messages_out.add(u64::from(out.messages));
            frames.push((out.to, out.sequence));
            requests.push(Request::Publish {
                to: (out.to != ALL).then_some(out.to),
                frame: out.frame,
            });
        }
        let replies = self.backplane.execute(requests);
        self.expect(async move { Outcome::Published(frames, replies.await) });
    }

    pub(super) fn published(&mut self, frames: Vec<(ReplicaId, u64)>, answers: &[Answer]) {
        let mut lanes = self.shared.lanes.lock();
        for (to, sequence) in frames {
            lanes.answered(to, sequence);
        }
        let lost = answers.iter().filter(|answer| answer.is_err()).count();
        self.shared.counters.frames_lost.add(lost as u64);
    }

    pub(super) fn trim(&mut self) {
        for (holder, what) in self.shared.take_let_go() {
            match what {
                LetGo::Frame(at) if holder == self.replica => self.inbox.let_go_of(at),
                LetGo::Frame(_) | LetGo::Redelivery => {}
                LetGo::Inheritance(of) => self.inheritance_done(of, holder == self.replica),
            }
        }
        let given_up = self.inbox.give_up(self.options.held_bytes);
        self.shared.counters.held_given_up.add(given_up);
        if self.trimming || self.member.is_joining() {
            return;
        }
        if let Some(from) = self.inbox.trim() {
            self.trimming = true;
            let replica = self.replica;
            self.ask(Request::TrimInbox { replica, from }, |_| Outcome::Trimmed);
        }
    }
}
