"use strict";
// Draws the figures of the chosen model, dataset and metric from the numbers in the page.
const layergrad = (() => {
  const settings = JSON.parse(document.getElementById("layergrad-settings").textContent);
  const families = Object.keys(settings.templates);
  const models = {};
  const received = {};
  const loading = {};
  const views = {};
  let shown = {};
  let latest = 0;

  // ------------------------------------------------------------------------------ numbers

  function receive([model, data]) {
    models[model] = data;
    if (received[model]) received[model]();
  }

  // A large study keeps each model's numbers in a script beside the page: unlike a request for
  // data, a script may be loaded by a page that was opened from a file.
  function load(model) {
    if (models[model]) return Promise.resolve();
    loading[model] ??= new Promise((resolve, reject) => {
      received[model] = resolve;
      const script = document.createElement("script");
      script.src = `data/${settings.files[model]}`;
      script.onerror = () => reject(new Error(`${script.src} is missing: it belongs to this page`));
      document.head.append(script);
    });
    return loading[model];
  }

  function rowsOf(packed, choice) {
    const names = Object.keys(packed);
    const columns = names.map((name) => packed[name]);
    const texts = columns.map((column) => column.texts);
    const at = columns.map((column) => column.texts ? column.at : column);
    const wanted = names.map((name, i) => name in choice ? texts[i].indexOf(choice[name]) : null);
    const rows = [];
    for (let r = 0; r < at[0].length; r++) {
      if (wanted.some((place, i) => place !== null && at[i][r] !== place)) continue;
      rows.push(Object.fromEntries(names.map((n, i) => [n, texts[i] ? texts[i][at[i][r]] ?? null : at[i][r]])));
    }
    return rows;
  }

  // ------------------------------------------------------------------------------ choices

  const field = (name) => document.getElementById(`choose-${name}`);

  function choices() {
    const names = ["model", "dataset", "metric", "control", "projection", "depth", "scale", "band"];
    return Object.fromEntries(names.map((name) => [name, field(name).value]));
  }

  // RD and AUC compare with the correct responses: they show a wrong control whatever is chosen.
  function controlOf(family, choice) {
    if (family === "knowledge" || family === "controls") return "correct";
    if (!["rd", "auc"].includes(family) || choice.control !== "correct") return choice.control;
    return settings.datasets[choice.dataset].controls.find((control) => control !== "correct");
  }

  function fill(name, options, keep) {
    const select = field(name);
    select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
    if (options.some(([value]) => value === keep)) select.value = keep;
  }

  function offer(choice) {
    const data = models[choice.model].datasets[choice.dataset];
    const controls = settings.datasets[choice.dataset].controls;
    fill("control", controls.map((c) => [c, c]), choice.control);
    const here = data.rows.curves.projection.texts;
    const projections = settings.projections.filter((name) => here.includes(name));
    fill("projection", [["all", "all"], ...projections.map((p) => [p, p])], choice.projection);
  }

  // ------------------------------------------------------------------------------ figures

  function specification(family, choice) {
    const look = settings.looks[family].map((name) => choice[name]).join(" ");
    const responses = settings.datasets[choice.dataset].responses.join("|");
    const metric = settings.metrics[choice.metric];
    const [title, within] = settings.placeholder;
    const text = JSON.stringify(settings.templates[family][look][responses]);
    const quoted = (word) => JSON.stringify(word).slice(1, -1);
    return JSON.parse(
      text.replaceAll(title, quoted(metric.title)).replaceAll(within, quoted(metric.within)));
  }

  // Panels side by side as far as they stay legible, wide enough to fill the page.
  function fit(spec, rows, width) {
    const panels = new Set(rows.map((row) => row[spec.facet.field])).size || 1;
    const most = width < 480 ? 1 : width < 860 ? 2 : 4;
    const columns = Math.min(panels, most, spec.columns);
    spec.columns = columns;
    spec.spec.width = Math.max(140, Math.floor((width - 78 - 20 * (columns - 1)) / columns));
    if (panels === 1 && typeof spec.spec.height === "number") spec.spec.height = 320;
    return spec;
  }

  function titleOf(family, choice) {
    return settings.titles[family].replace("{metric}", settings.metrics[choice.metric].title);
  }

  function subject(family, choice) {
    const control = controlOf(family, choice);
    const against = control !== "correct" && (family === "rd" || family === "auc");
    const compared = against ? `${control} against correct` : control;
    const names = family === "tuning" ? familyOf(choice) : [choice.model];
    const model = names.map((name) => settings.models[name].label).join(" and ") || "No models";
    const dataset = family === "knowledge" ? "all datasets" : settings.datasets[choice.dataset].label;
    return `${model} on ${dataset}, ${compared} responses`;
  }

  const familyOf = (choice) => settings.models[choice.model].family;

  // What a figure shows: its rows of the reader's choice, and the caption that tells their numbers.
  function contents(family, choice) {
    const wanted = { ...choice, control: controlOf(family, choice) };
    for (const name of ["model", "dataset", "depth", "scale"]) delete wanted[name];
    if (family !== "spectra") delete wanted.band;
    if (choice.projection === "all" || family === "controls" || family === "auc") delete wanted.projection;
    const model = models[choice.model];
    const data = family === "knowledge" ? model.whole : model.datasets[choice.dataset];
    const captions = data.captions[family] || {};
    const byControl = captions[choice.metric] || captions[""] || {};
    const caption = byControl[wanted.control] || byControl[""] || "";
    if (family === "tuning") return { rows: familyOf(choice).flatMap((name) => tunedRows(name, choice, wanted)), caption };
    return { rows: data.rows[family] ? rowsOf(data.rows[family], wanted) : [], caption };
  }

  function tunedRows(name, choice, wanted) {
    const rows = rowsOf(models[name].datasets[choice.dataset].rows.curves, wanted);
    const { tuning, label } = settings.models[name];
    return rows.map((row) => ({ ...row, tuning, model: label }));
  }

  async function draw(family, choice) {
    const figure = document.getElementById(`figure-${family}`);
    const chart = figure.querySelector(".chart");
    const { rows, caption } = contents(family, choice);
    const shownModels = family === "tuning" ? familyOf(choice) : [choice.model];
    const notes = new Set(shownModels.map((name) => settings.models[name].note));
    figure.querySelector(".figure-title").textContent = titleOf(family, choice);
    figure.querySelector(".subject").textContent = subject(family, choice);
    figure.querySelector(".note").textContent = [...notes].join(" ").trim();
    figure.querySelector(".caption").innerHTML = caption;
    numbers(figure.querySelector("details"), rows);
    for (const button of figure.querySelectorAll("button")) button.disabled = rows.length === 0;
    if (views[family]) views[family].finalize();
    delete views[family];
    if (rows.length === 0) {
      chart.textContent = "There are no numbers for this choice.";
      return;
    }
    const spec = fit(specification(family, choice), rows, chart.clientWidth);
    spec.description = `${titleOf(family, choice)}: ${subject(family, choice)}. ` +
      "The caption below states the main numbers; the table below it holds all of them.";
    spec.datasets = { rows };
    const config = { ...settings.config };
    config.legend = { ...config.legend, direction: chart.clientWidth < 480 ? "vertical" : "horizontal" };
    // 1: errors. A rule that waits for the pointer has no extent, of which Vega would warn.
    const options = { mode: "vega-lite", renderer: "svg", actions: false, config, logLevel: 1 };
    let result = await vegaEmbed(chart, spec, options);
    // Only now is it known how much room the axes' labels take.
    const spare = chart.clientWidth - chart.querySelector("svg").getBoundingClientRect().width;
    if (spare < 0 || spare > 16) {
      result.finalize();
      spec.spec.width = Math.max(120, spec.spec.width + Math.floor(spare / spec.columns));
      result = await vegaEmbed(chart, spec, options);
    }
    views[family] = result;
    const name = [family, choice.model, choice.dataset, choice.metric].join(".");
    figure.download = { name, rows };
  }

  async function update() {
    const mine = ++latest;
    const status = document.getElementById("status");
    let choice = choices();
    try {
      status.textContent = "Loading …";
      await Promise.all([choice.model, ...familyOf(choice)].map(load));
      if (mine !== latest) return;
      offer(choice);
      choice = choices();
      for (const family of families) {
        if (document.getElementById(`figure-${family}`)) await draw(family, choice);
        if (mine !== latest) return;
      }
      shown = choice;
      status.textContent = `Showing ${settings.metrics[choice.metric].within}: ${subject("curves", choice)}`;
    } catch (error) {
      status.textContent = `This figure could not be drawn: ${error.message}`;
      throw error;
    }
  }

  // ------------------------------------------------------------- numbers and pictures to keep

  function numbers(details, rows) {
    const body = details.querySelector("div");
    body.replaceChildren();
    details.ontoggle = () => {
      if (!details.open || body.childElementCount) return;
      body.append(tableOf(rows.slice(0, 500)));
      if (rows.length > 500) body.append(`The first 500 of ${rows.length} rows; the CSV has all.`);
    };
    if (details.open) details.ontoggle();
  }

  function tableOf(rows) {
    const table = document.createElement("table");
    const names = Object.keys(rows[0] || {});
    const head = table.createTHead().insertRow();
    for (const name of names) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const name of names) line.insertCell().textContent = row[name] ?? "";
    }
    return table;
  }

  function csv(rows) {
    const quote = (value) => value === null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
    const names = Object.keys(rows[0]);
    return [names, ...rows.map((row) => names.map((name) => quote(row[name])))].map((r) => r.join(",")).join("\n") + "\n";
  }

  async function save(family, kind) {
    const { name, rows } = document.getElementById(`figure-${family}`).download;
    const link = document.createElement("a");
    if (kind === "csv") link.href = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
    else link.href = await views[family].view.toImageURL(kind, kind === "png" ? 2 : 1);
    link.download = `${name}.${kind}`;
    link.click();
  }

  // ------------------------------------------------------------------------------ the start

  function start() {
    fill("model", Object.entries(settings.models).map(([n, m]) => [n, m.label]));
    fill("dataset", Object.entries(settings.datasets).map(([n, d]) => [n, d.label]));
    fill("metric", Object.entries(settings.metrics).map(([n, m]) => [n, m.title]), settings.metric);
    for (const select of document.querySelectorAll("select[id^=choose-]")) select.addEventListener("change", update);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-model]");
      if (link) {
        field("model").value = link.dataset.model;
        field("dataset").value = link.dataset.dataset;
        update();
      }
      const button = event.target.closest("button[data-save]");
      if (button) save(button.closest("figure").dataset.family, button.dataset.save);
    });
    let width = window.innerWidth;
    let timer;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      clearTimeout(timer);
      timer = setTimeout(update, 200);
    });
    return update();
  }

  return { receive, start, shown: () => shown };
})();
