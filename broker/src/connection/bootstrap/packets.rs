//! What each packet of a client with a bootstrap credential means.

use dunlin_protocol::{
    Ack, Packet, Properties, PropertiesBuf, Property, Publish, QoS, ReasonCode, SubAck, Subscribe,
    UnsubAck, Unsubscribe, topic,
};

use super::{Conversation, FILTERS_MAX, REQUEST, RESPONSE, answers_of, maximum_qos};
use crate::admin::problem::{PROBLEM, Problem};
use crate::connection::close::Closing;
use crate::hub::wake::CloseRequest;
use crate::provisioning::Request;

/// Where an answer goes.
struct Reply<'a> {
    topic: &'a str,
    correlation: Option<&'a [u8]>,
}

/// Whether a topic or filter is `$provision/response` or below it.
fn is_of_answers(topic: &str) -> bool {
    let rest = topic.strip_prefix(RESPONSE);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn violation(reason: ReasonCode, why: &str) -> Closing {
    Closing::Violation(reason, why.to_owned())
}

impl Conversation {
    pub(super) async fn packet(&mut self, packet: &Packet<'_>) -> Result<(), Closing> {
        match packet {
            Packet::Publish(publish) => self.publish(publish).await,
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
            Packet::PingReq => self.push(&Packet::PingResp),
            Packet::Disconnect(_) => Err(Closing::Disconnected {
                will: false,
                expiry_interval: None,
            }),
            _ => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "a packet that has no place in asking for an identity",
            )),
        }
    }

    fn push(&mut self, packet: &Packet<'_>) -> Result<(), Closing> {
        let encoded = packet.encode(self.newcomer.version, &mut self.out);
        encoded.map_err(|error| {
            violation(
                ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
                &error.to_string(),
            )
        })
    }

    async fn publish(&mut self, publish: &Publish<'_>) -> Result<(), Closing> {
        if publish.qos > maximum_qos(&self.hub) {
            let why = "a request for an identity has QoS 0 or 1";
            return Err(violation(ReasonCode::QOS_NOT_SUPPORTED, why));
        }
        if publish.properties.topic_alias().is_some() {
            let why = "there are no topic aliases here";
            return Err(violation(ReasonCode::TOPIC_ALIAS_INVALID, why));
        }
        let banned = self.hub.guard.bans.holds_client(
            self.caller.0.ip(),
            &self.newcomer.client_id,
            &self.newcomer.principal,
        );
        if banned {
            return Err(Closing::Asked(CloseRequest::NotAuthorized));
        }
        if publish.topic != REQUEST {
            let why = "a bootstrap credential is good for publishing to $provision/request alone";
            self.stray(why);
            return self.acknowledge(publish, ReasonCode::NOT_AUTHORIZED, why);
        }
        let own = answers_of(&self.newcomer.client_id);
        let named = publish.properties.response_topic();
        let reply = Reply {
            topic: named.filter(|topic| is_of_answers(topic)).unwrap_or(&own),
            correlation: publish.properties.correlation_data(),
        };
        // [MQTT-3.3.2-3] of 3.1.1: nobody is sent what it has not subscribed to, and an identity that nobody hears of is of no use.
        let filters = &self.filters;
        if !filters.iter().any(|it| topic::matches(it, reply.topic)) {
            let why = format!(
                "nothing was asked: subscribe to {} first, where the answer comes from",
                reply.topic
            );
            self.refused(None, &why);
            return self.acknowledge(publish, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, &why);
        }
        self.acknowledge(publish, ReasonCode::SUCCESS, "")?;
        let (kind, body) = match self.ask(publish.payload).await {
            Ok(body) => ("application/json", body),
            Err(problem) => (PROBLEM, problem.body()),
        };
        self.answer(&reply, kind, &body)
    }

    /// Asks what HTTPS would ask, and gives back what it would answer.
    async fn ask(&mut self, payload: &[u8]) -> Result<String, Problem> {
        self.newcomer.provisioner.count(&self.who, self.caller())?;
        let request: Request = serde_json::from_slice(payload).map_err(|error| {
            let why = error.to_string();
            self.refused(None, &why);
            Problem::invalid("body", why)
        })?;
        self.asking = Some(request.serial.clone());
        let provisioner = &self.newcomer.provisioner;
        let identity = provisioner.ask(&self.who, self.caller(), &request).await;
        self.asking = None;
        serde_json::to_string(&identity?)
            .map_err(|error| Problem::unavailable(format!("the answer cannot be written: {error}")))
    }

    fn answer(&mut self, reply: &Reply<'_>, kind: &str, body: &str) -> Result<(), Closing> {
        let mut properties = PropertiesBuf::default();
        let mut pushed = properties.push(Property::PayloadFormatIndicator(1)).is_ok();
        pushed &= properties.push(Property::ContentType(kind)).is_ok();
        if let Some(data) = reply.correlation {
            pushed &= properties.push(Property::CorrelationData(data)).is_ok();
        }
        let answer = Packet::Publish(Publish {
            topic: reply.topic,
            properties: properties.as_properties(),
            payload: body.as_bytes(),
            ..Publish::default()
        });
        let len = answer.encoded_len(self.newcomer.version);
        let max = self.newcomer.max_packet as usize;
        // [MQTT-3.1.2-24]
        if !pushed || len.is_ok_and(|len| len > max) {
            let why = "the answer is longer than the client takes";
            return Err(violation(ReasonCode::PACKET_TOO_LARGE, why));
        }
        self.hub.metrics.delivered([1, 0, 0], body.len() as u64, 0);
        self.push(&answer)
    }

    /// An MQTT 5 client is told in the acknowledgement how it went; an older one gets a plain one.
    fn acknowledge(
        &mut self,
        publish: &Publish<'_>,
        reason: ReasonCode,
        why: &str,
    ) -> Result<(), Closing> {
        if reason.is_error() {
            self.hub.metrics.publish_refused();
        }
        let Some(packet_id) = publish
            .packet_id
            .filter(|_| publish.qos == QoS::AtLeastOnce)
        else {
            return Ok(());
        };
        let mut properties = PropertiesBuf::default();
        let with_text = self.newcomer.problem_information
            && !why.is_empty()
            && properties.push(Property::ReasonString(why)).is_ok();
        let mut ack = Ack {
            packet_id,
            reason,
            properties: match with_text {
                true => properties.as_properties(),
                false => Properties::EMPTY,
            },
        };
        let len = Packet::PubAck(ack).encoded_len(self.newcomer.version);
        // [MQTT-3.4.2-2]
        if len.is_ok_and(|len| len > self.newcomer.max_packet as usize) {
            ack.properties = Properties::EMPTY;
        }
        self.push(&Packet::PubAck(ack))
    }

    /// The audit log is told once that the client has tried something else.
    fn stray(&mut self, why: &str) {
        if !self.strayed {
            self.strayed = true;
            self.refused(None, why);
        }
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<(), Closing> {
        if subscribe
            .properties
            .subscription_identifiers()
            .next()
            .is_some()
        {
            let reason = ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED;
            return Err(violation(
                reason,
                "there are no subscription identifiers here",
            ));
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for (filter, _) in subscribe.filters.iter() {
            let reason = self.take(filter);
            codes.push(match self.newcomer.version.is_v5() {
                false if reason.is_error() => 0x80,
                _ => reason.0,
            });
        }
        self.push(&Packet::SubAck(SubAck {
            packet_id: subscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes: &codes,
        }))
    }

    fn take(&mut self, filter: &str) -> ReasonCode {
        if !is_of_answers(filter) {
            self.stray(
                "a bootstrap credential is good for subscribing to $provision/response alone",
            );
            return match self.hub.features.reveal_refusals {
                true => ReasonCode::NOT_AUTHORIZED,
                false => ReasonCode::UNSPECIFIED_ERROR,
            };
        }
        if self.filters.iter().any(|it| **it == *filter) {
            return ReasonCode::GRANTED_QOS_0;
        }
        if self.filters.len() >= FILTERS_MAX {
            return ReasonCode::QUOTA_EXCEEDED;
        }
        self.filters.push(filter.into());
        ReasonCode::GRANTED_QOS_0
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) -> Result<(), Closing> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters.iter() {
            let before = self.filters.len();
            self.filters.retain(|it| **it != *filter);
            codes.push(match self.filters.len() < before {
                true => ReasonCode::SUCCESS.0,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED.0,
            });
        }
        let reason_codes = match self.newcomer.version.is_v5() {
            true => &codes[..],
            false => &[],
        };
        self.push(&Packet::UnsubAck(UnsubAck {
            packet_id: unsubscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes,
        }))
    }
}
