"""Rules: which fields are marked where, compiled into a plan that gives each exchange its two flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secmiddleware.fields.bodies import Marked
from secmiddleware.fields.entity_tags import EntityTags
from secmiddleware.fields.flows import PASSIVE, PASSIVE_RESPONSE, Exchange, Flow, Unconditional
from secmiddleware.fields.frames import Frames
from secmiddleware.fields.head_flow import HeadFlow
from secmiddleware.fields.head_values import MarkedHead
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.requests import RequestFlow
from secmiddleware.fields.responses import ResponseFlow
from secmiddleware.fields.streams import RequestByKind, ResponseByKind
from secmiddleware.fields.values import FieldRule, PlaceRule

__all__ = ["FieldRule", "PlaceRule", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to requests and responses where a set of places applies. Immutable."""

    _request: Marked | None
    _response: Marked | None
    _request_head: MarkedHead | None
    _response_head: MarkedHead | None
    _limits: Limits
    marks_anything: bool
    """Whether any message is rewritten."""
    private: bool
    """Whether a response depends on its caller: it has plaintext for some, or tokens bound to one."""
    sockets: bool
    """Whether a websocket may be let in: whatever is marked in bodies is so in its messages, too."""
    varies: bool
    """Whether what is the same to the app is other bytes each time it leaves: sealed, or sealed anew."""

    @classmethod
    def compile(cls, places: Sequence[PlaceRule], limits: Limits) -> Plan:
        """The plan of these places; of two that mark one value, the first has it.

        To be called once for each set of places: it takes a millisecond or more for each mark.

        Args:
            places: what is marked.
            limits: what may be held back.

        Raises:
            ValueError: the marks are too many to follow at once.
        """
        inward = [place for place in places if place.request != "pass"]
        outward = [place for place in places if place.response != "pass"]
        in_bodies = [place for place in places if any(isinstance(mark, Mark) for mark in place.marks)]
        return cls(
            Marked.of(inward, limits, requires=True),
            Marked.of(outward, limits),
            MarkedHead.of(inward),
            MarkedHead.of(outward),
            limits,
            marks_anything=any(place.marks for place in (*inward, *outward)),
            private=any(place.response == "decrypt" or place.field.is_for_one_caller for place in outward),
            sockets=all(place.websocket for place in in_bodies),
            varies=any(place.response == "encrypt" or place.field.rewrap for place in outward),
        )

    def frames(self, exchange: Exchange) -> Frames:
        """What happens to a websocket once its handshake has been let go."""
        answer = self.response_flow(exchange, "GET")
        return Frames(exchange, self._request, self._response, self._limits, answer)

    def entity_tags(self, exchange: Exchange) -> EntityTags:
        """The entity tags of an exchange, as its caller sees them and as the app does."""
        beside = self._response is None
        return EntityTags.of(exchange, private=self.private or beside, beside=beside)

    def request_flow(self, exchange: Exchange, *, streams: bool = False) -> Flow:
        """What happens to the request on its way to the app.

        `streams`: the app can take a body whose length nobody knows, and take it record by record.
        """
        flow: Flow = PASSIVE
        if self._request is not None:
            marked, tags = self._request, self.entity_tags(exchange)
            flow = RequestFlow(exchange, marked, self._limits, tags)
            if streams:
                flow = RequestByKind(exchange, flow, marked, self._limits, tags)
        elif self._response is not None:
            flow = Unconditional(self.entity_tags(exchange))
        return flow if self._request_head is None else HeadFlow(exchange, self._request_head, flow)

    def response_flow(self, exchange: Exchange, method: str) -> Flow:
        """What happens to the response; to be asked for when the request flow has let the request go.

        `method` is the request's.
        """
        flow: Flow = PASSIVE
        if self._response is not None or exchange.opened or exchange.streaming:
            marked, limits, private = self._response, self._limits, self.private
            tags = self.entity_tags(exchange)
            flow = ResponseFlow(exchange, method, marked, limits, tags, private=private, varies=self.varies)
            flow = ResponseByKind(exchange, method, flow, marked, limits, private=private)
        if self._response_head is None:
            return flow
        if flow is PASSIVE:
            flow = PASSIVE_RESPONSE
        return HeadFlow(exchange, self._response_head, flow, private=self.private)
