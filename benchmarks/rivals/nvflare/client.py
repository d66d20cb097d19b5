"""A site's part: NVFlare's Client API around a device's training."""

import nvflare.client as flare

flare.init()
device = int(flare.get_site_name().removeprefix("site-")) - 1
while flare.is_running():
    received = flare.receive()
    from local_training import classifier, put_trained, train, trained  # here: a site that gets no task needs no torch

    model = classifier()
    put_trained(model, received.params)
    examples = train(model, received.current_round, device)
    flare.send(flare.FLModel(params=trained(model), meta={"NUM_STEPS_CURRENT_ROUND": examples}))
