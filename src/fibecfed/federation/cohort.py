"""The devices' side of an exchange: a cohort's work goes from job to job, and the executor runs the jobs."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from fibecfed.federation.codec import Undecodable
from fibecfed.federation.compression import compression_of
from fibecfed.federation.device import Device, Site
from fibecfed.federation.messages import Reply, Request
from fibecfed.federation.method import Method, Work
from fibecfed.federation.upload import AsItIs, Upload
from fibecfed.federation.validation import STATE_LOST
from fibecfed.training import DeviceFailed, Job, Result


class DeviceSide:
    """Answers requests for the devices of one site."""

    def __init__(self, method: Method, site: Site, upload: Upload | None = None) -> None:
        self._stages = {stage.name: stage for stage in method.stages}
        self._site = site
        self._upload = upload or AsItIs()
        self._compression = compression_of(site.config, method.layout)

    def answer(self, request: Request) -> Reply:
        """All of one device's work. Raises DeviceFailed if it cannot be used."""
        (answer,) = self.answers([request])
        if isinstance(answer, DeviceFailed):
            raise answer
        return answer

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | DeviceFailed]:
        """An answer to each request, in order; a failure is one device's, never the cohort's.

        As many devices are at work together as the executor wants; requests beyond them are not yet taken.
        """
        waiting = iter(requests)
        while together := list(islice(waiting, self._site.executor.width)):
            yield from self._finished([_Working(self, request) for request in together])

    def _finished(self, cohort: Sequence["_Working"]) -> Iterator[Reply | DeviceFailed]:
        """Prepare all, run their jobs, hand each its result, until no device has another job."""
        jobs = {number: job for number, working in enumerate(cohort) if (job := working.start()) is not None}
        while jobs:
            results = self._site.executor.run(iter(jobs.values()))
            following = (
                (number, cohort[number].go_on(result)) for number, (_, result) in zip(jobs, results, strict=True)
            )
            jobs = {number: job for number, job in following if job is not None}
        for working in cohort:
            assert working.answer is not None
            yield working.answer

    def arrived(self, request: Request) -> Request:
        """A request as the stages know it. Raises DeviceFailed for one that cannot be read."""
        try:
            return self._compression.unpack_request(request)
        except Undecodable as error:
            raise DeviceFailed(f"the server's request cannot be read: {error}") from None

    def begin(self, device: Device, request: Request) -> Work:
        """A device's work for a request, not yet begun. Raises DeviceFailed for a stage that the method lacks."""
        if request.address.stage not in self._stages:
            raise DeviceFailed(f"the server asks for {request.address.stage!r}, which is no stage of this method")
        return self._stages[request.address.stage].work(device, request)

    def sent(self, device: Device, request: Request, reply: Reply) -> Reply:
        """A reply as it leaves; it names the loss of the device's state, if that was lost."""
        if device.state_lost is not None:
            reply = dataclasses.replace(reply, info={**reply.info, STATE_LOST: device.state_lost})
        return self._compression.pack_reply(device, request, self._upload.outgoing(reply))

    def device(self, request: Request) -> Device:
        """The device that a request is for."""
        return Device(self._site, request.address.device, request.address.state_version)


class _Working:
    """One device on its way through its jobs."""

    def __init__(self, side: DeviceSide, request: Request) -> None:
        self.answer: Reply | DeviceFailed | None = None
        self._side, self._request = side, request
        self._device = side.device(request)
        self._work: Work | None = None

    def start(self) -> Job | None:
        """The first job, or None and an answer."""
        return self._advance(None)

    def go_on(self, result: Result | DeviceFailed) -> Job | None:
        """The next job, or None and an answer."""
        return self._advance(result)

    def _advance(self, result: Result | DeviceFailed | None) -> Job | None:
        try:
            if self._work is None:
                self._request = self._side.arrived(self._request)
                self._work = self._side.begin(self._device, self._request)
            return self._work.throw(result) if isinstance(result, DeviceFailed) else self._work.send(result)
        except StopIteration as finished:
            try:
                self.answer = self._side.sent(self._device, self._request, finished.value)
            except DeviceFailed as failure:  # its residual could not be written
                self.answer = failure
        except DeviceFailed as failure:
            self.answer = failure
        return None
