"use strict";
// Shows and hides lines, sorts tables, copies the command, changes the theme. Without it all is seen and printed.
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Theme: automatic, light, dark. A browser may refuse to remember it for a local file.
  const themes = ["automatic", "light", "dark"];
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("fibecfed-theme"); } catch { return null; } };
  const use = (theme) => {
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.dataset.now = theme;
  };
  use(themes.includes(remembered()) ? remembered() : "automatic");
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(button.dataset.now) + 1) % themes.length];
    use(next);
    try { localStorage.setItem("fibecfed-theme", next); } catch { /* only this page, then */ }
  });

  // Lines: a switch acts on its own chart, and on whatever row of pictures has its name.
  const apply = (box) => {
    for (const part of all(`[data-series="${CSS.escape(box.dataset.switch)}"]`, box.closest(".chart"))) {
      part.classList.toggle("off", !box.checked);
    }
  };
  for (const box of all("[data-switch]")) {
    box.addEventListener("change", () => apply(box));
    apply(box);  // a reloaded page keeps what was ticked
  }
  for (const every of all("[data-all]")) {
    every.addEventListener("click", () => {
      for (const box of all("[data-switch]:not([data-switch^='protocol-'])", every.closest(".keys"))) {
        box.checked = every.dataset.all === "on";
        apply(box);
      }
    });
  }

  // Tables: a number where the cell has one, else its text; what is missing comes last.
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.v ?? cell.textContent).trim();
    const number = Number(text);
    return text === "" || text === "-" ? null : Number.isNaN(number) ? text : number;
  };
  const compared = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true }));
  for (const heading of all("table.sortable th")) {
    heading.querySelector("button").addEventListener("click", () => {
      const table = heading.closest("table");
      const falling = heading.getAttribute("aria-sort") === "ascending";
      for (const other of all("th", table)) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row, heading.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1
        : (falling ? -1 : 1) * compared(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
  }

  // The command. Outside https a browser has no clipboard to write to; then it is selected.
  for (const copy of all(".copy")) {
    copy.addEventListener("click", async () => {
      const code = copy.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }

  // What is folded is printed, too.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details.fold:not([open])");
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
})();
