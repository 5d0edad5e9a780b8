// A press on a name of a legend hides or shows its line.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    const chart = button.closest(".chart").querySelector(".plotly-graph-div");
    Plotly.restyle(chart, { visible: shown }, [Number(button.dataset.line)]);
  });
}
