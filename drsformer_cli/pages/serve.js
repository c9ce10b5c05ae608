/** The page to drop an image on: it posts the image and compares it with the answer. */
function prepareUpload() {
  const element = (id) => document.getElementById(id);
  const [input, format, strength, result, download] = ["file", "format", "strength", "result", "download"].map(element);
  let chosen = null; // the last file, for another try with other options
  let running = null; // the AbortController of the running request
  let addresses = []; // of the images that are shown

  const say = (status, error = "") => {
    element("status").textContent = status;
    element("error").textContent = error;
    element("progress").hidden = element("cancel").hidden = !running;
  };

  const layer = (kind, address) => {
    const image = Object.assign(new Image(), { src: address, alt: `${chosen.name}, ${kind}`, draggable: false });
    const badge = Object.assign(document.createElement("span"), {
      className: "badge",
      ariaHidden: "true",
      textContent: kind === "rainy" ? "Rainy" : "Restored",
    });
    const div = document.createElement("div");
    div.append(image, badge);
    return [div, image];
  };

  /** A comparison like those of the report; rejected if the browser cannot show one of the images. */
  const comparison = async (before, after) => {
    const [rainy, rainyImage] = layer("rainy", before);
    const [restored, restoredImage] = layer("restored", after);
    await Promise.all([rainyImage.decode(), restoredImage.decode()]);
    rainy.className = "before";
    restored.className = "after";
    const divider = Object.assign(document.createElement("div"), { className: "divider" });
    const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, value: 50 });
    range.ariaLabel = `Divider before restored, ${chosen.name}`;
    const compare = Object.assign(document.createElement("div"), { className: "compare" });
    compare.dataset.ratio = restoredImage.naturalWidth / restoredImage.naturalHeight;
    compare.append(restored, rainy, divider, range);
    prepareComparison(compare);
    return compare;
  };

  const show = async (answer) => {
    const restored = await answer.blob();
    addresses.forEach(URL.revokeObjectURL);
    addresses = [chosen, restored].map((blob) => URL.createObjectURL(blob));
    const stem = chosen.name.replace(/\.[^.]*$/, "");
    const ending = format.value || (/\.([^.]+)$/.exec(chosen.name) ?? [, restored.type.split("/")[1]])[1];
    download.href = addresses[1];
    download.download = `${stem}_derained.${ending}`;
    result.dataset.name = chosen.name;
    const number = (name) => Number(answer.headers.get(`X-Drsformer-${name}`));
    element("facts").textContent =
      `${number("Seconds").toFixed(1)} s, mean change ${number("Mean-Change").toFixed(2)} of 255`;
    const notes = JSON.parse(answer.headers.get("X-Drsformer-Notes") ?? "[]");
    element("notes").replaceChildren(
      ...notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
    );
    const shown = await comparison(...addresses).catch(() => null);
    const frame = result.querySelector(".frame");
    frame.replaceChildren(...(shown ? [shown] : []));
    frame.hidden = result.querySelector(".enlarge").hidden = !shown;
    element("no-preview").hidden = Boolean(shown);
    result.hidden = false;
    document.body.classList.add("has-result");
  };

  const restore = async (file) => {
    running?.abort();
    const own = (running = new AbortController());
    chosen = file;
    say(`Removing rain from ${file.name} \u2026`);
    const query = new URLSearchParams({ strength: strength.value, ...(format.value && { format: format.value }) });
    let [status, problem] = ["", ""];
    try {
      const answer = await fetch(`/derain?${query}`, { method: "POST", body: file, signal: own.signal });
      if (answer.ok) {
        await show(answer);
        status = `Rain removed from ${file.name}.`;
      } else {
        problem = `${file.name}: ${(await answer.json()).error}`;
      }
    } catch (error) {
      if (error.name !== "AbortError") problem = "The server does not answer. Is drsformer serve still running?";
    }
    if (running !== own) return; // another image was chosen meanwhile
    running = null;
    say(status, problem);
  };

  const choose = (files) => {
    const file = [...(files ?? [])][0];
    if (file) restore(file);
  };

  input.addEventListener("change", () => { choose(input.files); input.value = ""; });
  format.addEventListener("change", () => chosen && restore(chosen));
  strength.addEventListener("change", () => chosen && restore(chosen));
  strength.addEventListener("input", () => {
    element("strength-value").textContent = `${Math.round(100 * strength.value)} %`;
  });
  element("cancel").addEventListener("click", () => running?.abort());
  document.addEventListener("paste", (event) => choose(event.clipboardData?.files));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") choose(event.dataTransfer?.files);
    });
  }
}

prepareUpload();
