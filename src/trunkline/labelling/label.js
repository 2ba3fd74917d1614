"use strict";
// The labelling page: keys first. 1 to 9 take a suggestion, typing narrows the list, Enter takes the first, arrows skip and take back.
(() => {
  const key = new URLSearchParams(location.search).get("key"), find = (id) => document.getElementById(id);
  const by = find("by"), type = find("type"), choices = find("choices");
  const chinese = { "of": "共", "labelled": "已标注", "type to search, or a new label": "输入以搜索，或输入新标签", "skip": "跳过", "take back": "撤销", "take the first": "选第一个", "take one": "选择",
    "agreement (Krippendorff's alpha)": "一致性（Krippendorff α）", "agreement (Cohen's kappa)": "一致性（Cohen κ）", "is it worth going on?": "值得继续吗？", "suggestions learned from": "建议所依据的标注数", "new label": "新标签", "rows": "行" };
  let zh = (navigator.language || "").startsWith("zh"), current = null, names = [], busy = false;
  const t = (phrase) => (zh ? chinese[phrase] || phrase : phrase);

  async function ask(path, body) {
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers: { "X-Key": key, ...(body ? { "Content-Type": "application/json" } : {}) }, body: body && JSON.stringify(body) });
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error);
    return value;
  }
  function failed(error) { find("error").textContent = error.message; find("error").hidden = false; }
  async function guarded(work) {
    if (busy) return;
    busy = true;
    try { await work(); find("error").hidden = true; } catch (error) { failed(error); } finally { busy = false; }
  }

  function listed() {
    const typed = type.value.trim().toLowerCase();
    if (!typed) return current.suggestions;
    const known = new Map(current.suggestions.map((one) => [one.label, one]));
    const found = names.filter((name) => name.toLowerCase().includes(typed)).map((name) => known.get(name) || { label: name, probability: null });
    found.sort((a, b) => b.label.toLowerCase().startsWith(typed) - a.label.toLowerCase().startsWith(typed));
    const isNew = !names.some((name) => name.toLowerCase() === typed);
    return [...found.slice(0, 9), ...(isNew ? [{ label: type.value.trim(), probability: null, fresh: true }] : [])];
  }
  function show() {
    choices.replaceChildren(...listed().map((one, at) => {
      const item = document.createElement("li"), button = document.createElement("button"), number = document.createElement("kbd"), name = document.createElement("span"), sure = document.createElement("small");
      number.textContent = type.value ? (at ? "" : "↵") : String(at + 1);
      name.textContent = one.label; sure.textContent = one.fresh ? t("new label") : one.probability === null ? "" : Math.round(100 * one.probability) + "%";
      button.type = "button"; button.append(number, name, sure);
      if (one.probability !== null) { const bar = document.createElement("progress"); bar.max = 1; bar.value = one.probability; button.append(bar); }
      button.onclick = () => guarded(() => say(one.label)); item.append(button); return item;
    }));
  }
  async function next() {
    if (!by.value.trim()) { by.focus(); return; }
    current = await ask("/next?by=" + encodeURIComponent(by.value.trim()));
    find("card").hidden = !current.row; find("done").hidden = Boolean(current.row);
    if (current.row) {
      find("text").textContent = current.text; find("text_b").textContent = current.text_b; type.value = "";
      show(); type.focus();
    }
    state().catch(failed); // not waited for: a key that is pressed now is meant for the row that is shown
  }
  async function say(label) { const row = current.row; await ask("/label", { row, by: by.value.trim(), label }); await next(); }
  async function state() {
    const now = await ask("/state");
    names = now.names;
    find("progress").textContent = zh ? `${t("labelled")} ${now.labelled} / ${now.rows}` : `${now.labelled} ${t("of")} ${now.rows} ${t("labelled")}`;
    const facts = [[t("suggestions learned from"), now.taught_on]];
    if (now.outlook) facts.push([t("is it worth going on?"), now.outlook]);
    if (now.alpha !== null) facts.push([t("agreement (Krippendorff's alpha)"), now.alpha.toFixed(2)]);
    for (const [one, other, value, count] of now.kappa) facts.push([t("agreement (Cohen's kappa)"), `${one} – ${other}: ${value.toFixed(2)} (${count} ${t("rows")})`]);
    find("facts").replaceChildren(...facts.flatMap(([name, value]) => { const a = document.createElement("dt"), b = document.createElement("dd"); a.textContent = name; b.textContent = value; return [a, b]; }));
    find("disputes").hidden = !now.disputed.length;
    find("list").replaceChildren(...now.disputed.slice(0, 20).map((one) => {
      const box = document.createElement("div"), text = document.createElement("p"); box.className = "dispute"; text.textContent = one.text; box.append(text);
      for (const label of new Set(Object.values(one.given).filter(Boolean))) {
        const button = document.createElement("button"), who = Object.keys(one.given).filter((person) => one.given[person] === label).join(", ");
        button.type = "button"; button.textContent = `${label} (${who})`;
        button.onclick = () => guarded(async () => { await ask("/decide", { row: one.row, by: by.value.trim(), label }); await state(); }); box.append(button);
      }
      return box;
    }));
  }
  function words() {
    document.documentElement.lang = zh ? "zh-CN" : "en";
    for (const one of document.querySelectorAll("[data-zh]")) { one.dataset.en = one.dataset.en || one.textContent; one.textContent = zh ? one.dataset.zh : one.dataset.en; }
    find("language").textContent = zh ? "English" : "中文"; type.placeholder = t("type to search, or a new label");
    const hints = [["1–9", "take one"], ["Enter", "take the first"], ["→", "skip"], ["←", "take back"]];
    find("keys").replaceChildren(...hints.flatMap(([name, what]) => { const k = document.createElement("kbd"); k.textContent = name; return [k, " " + t(what) + "  "]; }));
  }

  document.addEventListener("keydown", (event) => {
    if (document.activeElement === by) { if (event.key === "Enter") { remember(); guarded(next); } return; }
    if (!current || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "ArrowLeft" && !type.value) { event.preventDefault(); guarded(async () => { await ask("/undo", { by: by.value.trim() }); await next(); }); return; }
    if (!current.row) return;
    if (!type.value && /^[1-9]$/.test(event.key)) { const one = listed()[Number(event.key) - 1]; event.preventDefault(); if (one) guarded(() => say(one.label)); }
    else if (event.key === "Enter" && document.activeElement === type) { const one = listed()[0]; event.preventDefault(); if (one) guarded(() => say(one.label)); }
    else if (event.key === "ArrowRight" && !type.value) { event.preventDefault(); guarded(() => say("")); }
    else if (event.key === "Escape") { type.value = ""; show(); }
  });
  const remember = () => { try { sessionStorage.setItem("by", by.value.trim()); } catch { /* a private window may have none */ } };
  type.addEventListener("input", show);
  by.addEventListener("change", () => { remember(); guarded(next); });
  find("language").onclick = () => { zh = !zh; words(); if (current && current.row) show(); guarded(state); };
  try { by.value = sessionStorage.getItem("by") || ""; } catch { /* the same */ }
  words();
  guarded(async () => { await state(); await next(); });
})();
