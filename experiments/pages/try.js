const about = JSON.parse(document.getElementById("about").textContent);
const byId = (id) => document.getElementById(id);
const corrections = new Map(); // card -> { name, file } and a folder, or the labels
const waiting = [];
let answered = 0, asked = 0, running = false, stopper = null;

// An element: its class, what it holds (text is text, never HTML), its properties.
function make(tag, name = "", content = [], properties = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...[content].flat());
  return Object.assign(element, properties);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function say(text) {
  byId("status").textContent = text;
}

// ---- Photos come, wait, and are answered one after the other.

function take(files) {
  if (!files.length) return;
  const batch = make("div", "batch");
  byId("answers").prepend(batch);
  for (const file of files) waiting.push({ file, batch });
  asked += files.length;
  if (!running) work();
}

async function work() {
  running = true;
  stopper = new AbortController();
  let failed = 0;
  byId("busy").hidden = false;
  while (waiting.length) {
    const { file, batch } = waiting.shift();
    byId("progress").max = asked;
    byId("progress").value = answered;
    say(`${answered + 1} of ${asked}: ${file.name}`);
    try {
      batch.append(await cards[about.task](file, stopper.signal));
    } catch (error) {
      if (stopper.signal.aborted) break;
      failed += 1;
      batch.append(badCard(file.name, error.message));
    }
    answered += 1;
  }
  const left = stopper.signal.aborted ? "; stopped before the rest" : "";
  const bad = failed ? `, ${failed} of them could not be used` : "";
  say(`${counted(answered, "photo")} answered${bad}${left}.`);
  byId("busy").hidden = true;
  waiting.length = answered = asked = 0;
  running = false;
}

async function send(path, file, wishes, signal) {
  if (file.size > about.largest) {
    throw new Error(`it has ${megabytes(file.size)}, and at most ${megabytes(about.largest)} are taken`);
  }
  const query = new URLSearchParams({ name: file.name, ...wishes });
  let reply;
  try {
    // Read first: a file that has gone is told from a server that has.
    const body = await file.arrayBuffer().catch(() => { throw new Error("the file cannot be read: is it a folder?"); });
    reply = await fetch(`${path}?${query}`, { method: "POST", body, signal });
  } catch (error) {
    if (signal.aborted || !(error instanceof TypeError)) throw error;
    throw new Error("the server does not answer: is it still running?");
  }
  if (!reply.ok) throw new Error((await reply.json()).error);
  return reply;
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

function card(name, kind, content) {
  return make("section", `answer ${kind}`, [make("h2", "", name), ...content]);
}

function badCard(name, reason) {
  const plain = reason.startsWith(`${name}: `) ? reason.slice(name.length + 2) : reason;
  return card(name, "bad", [make("p", "", `Not used: ${plain}`)]);
}

// ---- A classifier's answer.

async function classify(file, signal) {
  const reply = await send("predict", file, { pictures: 1 }, signal);
  const said = await reply.json();
  const box = card(file.name, "", [pictures(said), make("div", "words"), near(said)]);
  const words = box.querySelector(".words");
  words.append(about.several ? labels(said) : verdict(said), ranks(said));
  for (const note of said.notes) words.append(make("p", "note", note));
  words.append((about.several ? correctLabels : correct)(box, said, file));
  return box;
}

function picture(source, words, caption) {
  return make("figure", "", [make("img", "", [], { src: source, alt: words }), make("figcaption", "", caption)]);
}

function pictures(said) {
  const shown = make("div", "pictures", picture(said.seen, `${said.name}, as the net sees it`, "what the net saw"));
  if (said.looked) {
    shown.append(picture(said.looked, `Where the net found ${said.looked_for}: bright places`, about.several ? `what spoke for ${said.looked_for}` : "what spoke for its answer"));
    return shown;
  }
  shown.classList.add("one");
  return make("div", "", [shown, make("p", "note", said.looked_note)]);
}

function verdict(said) {
  const line = make("p", "verdict", [make("strong", "", said.prediction), make("span", "share", percent(said.probability))]);
  if (said.unsure) line.append(make("span", "unsure", "unsure"));
  return line;
}

// Of several labels all that are said; of no label that too.
function labels(said) {
  if (!said.predictions.length) return make("p", "verdict", make("strong", "none", "no label"));
  return make("ul", "verdict", said.predictions.map((name) => make("li", "", [
    make("strong", "", name), make("span", "share", percent(said.probabilities[name])),
  ])));
}

function ranks({ probabilities, predictions = [] }) {
  const shown = Math.max(3, predictions.length + 1);
  const best = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, shown);
  return make("ol", "ranks", best.map(([name, share]) => {
    const bar = make("i");
    bar.style.width = percent(share).replace(" ", "");
    const strip = make("span", "bar", bar);
    strip.setAttribute("aria-hidden", "true");
    return make("li", "", [make("span", "", name), make("span", "", percent(share)), strip]);
  }));
}

function near(said) {
  const box = make("div", "near", [make("h3", "", "Nearest training photos"), make("p", "note", said.nearest_note)]);
  box.append(make("ul", "", said.nearest.map((one) => make("li", "", picture(
    one.image, one.name, [make("b", "", one.label), " ", make("small", "", one.similarity.toFixed(2))]
  )))));
  for (const image of box.querySelectorAll("img")) image.title = image.alt;
  return box;
}

// ---- Corrections, which stay in this page until they are downloaded.

function correct(box, said, file) {
  const choice = make("select", "", make("option", "", "the answer is right", { value: "" }));
  about.classes.forEach((name, label) => choice.append(make("option", "", name, { value: label })));
  choice.addEventListener("change", () => {
    const chosen = choice.value !== "" && { folder: about.folders[choice.value], name: said.file, file };
    noteCorrection(box, chosen, chosen && about.classes[choice.value] !== said.prediction);
  });
  return make("p", "correct", make("label", "", [make("span", "", "Wrong? It shows"), choice]));
}

function correctLabels(box, said, file) {
  const boxes = about.classes.map((name) => make("input", "", [], { type: "checkbox", checked: said.predictions.includes(name) }));
  const right = make("input", "", [], { type: "checkbox" }); // of which there is nothing to change
  const update = () => {
    const named = about.classes.filter((_, label) => boxes[label].checked);
    const changed = named.join("\n") !== said.predictions.join("\n");
    noteCorrection(box, (changed || right.checked) && { labels: named, name: said.file, file }, changed);
  };
  const ticks = boxes.map((one, label) => make("label", "", [one, make("span", "", about.classes[label])]));
  ticks.push(make("label", "right", [right, make("span", "", "keep it as it is")]));
  const field = make("fieldset", "correct", [make("legend", "", "Wrong? It shows"), ...ticks]);
  field.addEventListener("change", update);
  return field;
}

// `chosen`: what the photo shows, or false where there is nothing to note.
function noteCorrection(box, chosen, changed) {
  if (chosen) corrections.set(box, chosen);
  else corrections.delete(box);
  box.classList.toggle("corrected", Boolean(changed));
  byId("corrections").hidden = !corrections.size;
  byId("count").textContent = `${counted(corrections.size, "photo")} with the right ${about.several ? "labels" : "class"}.`;
}

byId("download").addEventListener("click", async () => {
  const taken = new Set(), files = [], lines = [];
  for (const { folder = "photos", labels, name, file } of corrections.values()) {
    const dot = name.lastIndexOf(".");
    let path = `${folder}/${name}`;
    for (let number = 2; taken.has(path.toLowerCase()); number++) {
      path = `${folder}/${name.slice(0, dot)}-${number}${name.slice(dot)}`;
    }
    taken.add(path.toLowerCase());
    files.push([`corrections/${path}`, file]);
    lines.push(`${JSON.stringify({ path, labels })}\n`);
  }
  if (about.several) files.push(["corrections/labels.jsonl", new Blob(lines)]);
  try {
    save(await zip(files), "corrections.zip");
    say(`corrections.zip holds ${counted(lines.length, "photo")}.`);
  } catch (error) { // a file has changed since, say
    say(`The corrections cannot be packed: ${error.message}`);
  }
});

function save(blob, name) {
  const link = make("a", "", [], { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- An enlargement, beside the same by bicubic interpolation.

async function enlarge(file, signal) {
  const sent = [{}, { by: "bicubic" }].map((wishes) => send("enlarge", file, wishes, signal));
  const [after, before] = await Promise.all(sent.map(async (one) => URL.createObjectURL(await (await one).blob())));
  const name = `${file.name.replace(/\.[^.]*$/, "")}_x${about.scale}.png`;
  const layers = make("div", "layers", [
    make("img", "", [], { src: before, alt: `${file.name}, enlarged by bicubic interpolation` }),
    make("img", "after", [], { src: after, alt: `${file.name}, enlarged by ${about.net}` }),
    make("span", "edge"),
  ]);
  await Promise.all([...layers.querySelectorAll("img")].map((image) => image.decode()));
  const frame = make("div", "window", layers, { tabIndex: -1 });
  const slider = make("input", "", [], { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", "How much of the left is before, in percent");
  const exact = make("input", "", [], { type: "checkbox" });
  const place = () => cut(frame, layers, Number(slider.value) / 100);
  slider.addEventListener("input", place);
  frame.addEventListener("scroll", place);
  exact.addEventListener("change", () => {
    frame.classList.toggle("whole", exact.checked);
    frame.tabIndex = exact.checked ? 0 : -1; // what scrolls can be scrolled by keys
    place();
  });
  new ResizeObserver(place).observe(layers);
  const link = make("a", "button main", `Download ${name}`, { href: after, download: name });
  return card(file.name, "large", [
    make("div", "compare", [
      frame,
      slider,
      make("p", "ends", [make("span", "", "left: before (bicubic)"), make("span", "", `right: after (${about.net})`)]),
    ]),
    make("p", "tools", [link, make("label", "", [exact, "pixel by pixel"])]),
  ]);
}

// The cut lies in what is seen of the picture, however far that is scrolled.
function cut(frame, layers, share) {
  const seen = Math.min(frame.clientWidth, layers.clientWidth);
  const left = `${frame.scrollLeft + share * seen}px`;
  layers.querySelector(".after").style.clipPath = `inset(0 0 0 ${left})`;
  layers.querySelector(".edge").style.left = left;
}

const cards = { classify, enlarge };

// ---- How photos come: chosen, dropped, or from the camera.

byId("choose").addEventListener("click", () => byId("files").click());
byId("stop").addEventListener("click", () => { waiting.length = 0; stopper.abort(); });
for (const input of [byId("files"), byId("shot")]) {
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // the same file may come again
  });
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}

byId("camera").addEventListener("click", async () => {
  const byHand = matchMedia("(pointer: coarse)").matches; // a phone's own camera is better
  if (byHand || !navigator.mediaDevices) return byId("shot").click();
  try {
    byId("video").srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
    byId("viewer").showModal();
  } catch (error) {
    say(`No camera can be used (${error.message}): choose a photo instead.`);
  }
});

byId("take").addEventListener("click", () => {
  const video = byId("video");
  if (!video.videoWidth) return;
  const canvas = make("canvas", "", [], { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    take([new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" })]);
    byId("viewer").close();
  }, "image/jpeg", 0.95);
});

byId("close").addEventListener("click", () => byId("viewer").close());
byId("viewer").addEventListener("close", () => {
  for (const track of byId("video").srcObject?.getTracks() ?? []) track.stop();
  byId("video").srcObject = null;
});
